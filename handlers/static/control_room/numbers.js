// Numbers as people read them. Null, undefined and NaN are a dash: not known.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const TENTH = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const HUNDREDTH = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const PERCENT = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const FINE_PERCENT = new Intl.NumberFormat("en", {
  style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1,
});
const CLOCK = new Intl.DateTimeFormat("en", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const UNITS = ["B", "kB", "MB", "GB", "TB"];
const NONE = "–";

const known = (value) => typeof value === "number" && !Number.isNaN(value);

/** 1,234 */
export const count = (value) => (known(value) ? WHOLE.format(value) : NONE);

/** A rate: 0, 0.4, 12.3, 1,234. */
export function rate(value) {
  if (!known(value)) return NONE;
  return value === 0 ? "0" : value < 99.95 ? TENTH.format(value) : WHOLE.format(value);
}

/** 12 B, 1.2 kB, 12.3 MB */
export function bytes(value) {
  if (!known(value)) return NONE;
  let unit = 0;
  while (value >= 999.95 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? WHOLE.format(value) : TENTH.format(value)} ${UNITS[unit]}`;
}

/** 0.02 s, 12.3 s, 123 s */
export function seconds(value) {
  if (!known(value)) return NONE;
  return `${value < 9.995 ? HUNDREDTH.format(value) : value < 99.95 ? TENTH.format(value) : WHOLE.format(value)} s`;
}

/** Seconds as milliseconds: 0.8 ms, 12.3 ms, 1,234 ms */
export function milliseconds(value) {
  if (!known(value)) return NONE;
  const ms = value * 1000;
  return `${ms < 99.95 ? TENTH.format(ms) : WHOLE.format(ms)} ms`;
}

/** A share of 1, in per cent; a tenth where it is small. */
export function percent(value) {
  if (!known(value)) return NONE;
  return (value > 0 && value < 0.1 ? FINE_PERCENT : PERCENT).format(value);
}

/** How long ago or how long: 8 s, 3 min, 2 h, 5 d. */
export function duration(value) {
  if (!known(value)) return NONE;
  if (value < 120) return `${WHOLE.format(Math.max(0, Math.floor(value)))} s`;
  if (value < 7200) return `${WHOLE.format(Math.floor(value / 60))} min`;
  if (value < 172_800) return `${WHOLE.format(Math.floor(value / 3600))} h`;
  return `${WHOLE.format(Math.floor(value / 86_400))} d`;
}

/** A time of day, the viewer's. `at` in seconds. */
export const clock = (at) => (known(at) ? CLOCK.format(new Date(at * 1000)) : NONE);

/** "1 store", "2 stores" */
export const plural = (value, one, more = `${one}s`) => `${count(value)} ${value === 1 ? one : more}`;
