"""What turns containers into the marketplace's servers; the service imports nothing from here."""
