// Starts Swagger UI on this service's own document; a file of its own because the page allows no inline script.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  persistAuthorization: false, // a key typed in here is gone with the page
  displayRequestDuration: true,
  tryItOutEnabled: true,
  filter: true,
  validatorUrl: null, // the validator's badge would send the document elsewhere
  defaultModelsExpandDepth: 0,
});
