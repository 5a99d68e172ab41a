// Lines of the last two minutes, drawn by Chart.js (window.Chart) and changed in place: no animation, no legend of its
// own, since the legend of the page says the last values as text.

import { colour, onTheme } from "./theme.js";

const SECONDS = 120;
const DASHES = [[], [6, 3], [2, 2]];

const charts = new Set();
let marks = [];

/**
 * Events that changed something, as lines down through every chart.
 * @param {Array<{at: number, text: string}>} events `at` in seconds
 */
export function setMarks(events) {
  marks = events;
}

const marker = {
  id: "marks",
  afterDatasetsDraw({ ctx, chartArea: { top, bottom, left, right }, scales: { x }, $now: now }) {
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("mark");
    ctx.font = `11px ${Chart.defaults.font.family}`;
    ctx.setLineDash([3, 3]);
    marks.forEach(({ at, text }, index) => {
      const place = x.getPixelForValue(at - now);
      if (place < left || place > right) return;
      ctx.beginPath();
      ctx.moveTo(place, top);
      ctx.lineTo(place, bottom);
      ctx.stroke();
      ctx.textAlign = place > (left + right) / 2 ? "right" : "left";
      // One under the other: flags are turned in quick succession.
      ctx.fillText(text, place + (ctx.textAlign === "left" ? 4 : -4), top + 10 + 13 * (index % 4));
    });
    ctx.restore();
  },
};

/** One chart: a canvas, and series whose newest values come each second. */
export class TimeChart {
  #chart;
  #series;
  #times = [];

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Array<{name: string, colour: string}>} series colours as the style sheet names them
   * @param {{stacked: boolean, format: function(number): string, reaches: number}} settings `stacked`: as areas upon
   *   each other; `reaches`: how far the axis goes whatever the values are
   */
  constructor(canvas, series, { stacked, format, reaches }) {
    this.#series = series;
    this.#chart = new Chart(canvas, {
      type: "line",
      data: {
        datasets: series.map(({ name }, index) => ({
          label: name,
          data: [],
          fill: stacked ? (index === 0 ? "origin" : "-1") : false,
          borderDash: stacked ? [] : DASHES[index % DASHES.length],
        })),
      },
      options: options(stacked, format, reaches),
      plugins: [marker],
    });
    this.#paint();
    charts.add(this);
  }

  /**
   * @param {number} at seconds
   * @param {Array<?number>} values one a series
   * @param {boolean} gap whether the lines break here
   */
  add(at, values, gap) {
    const { datasets } = this.#chart.data;
    if (gap) this.#push(at - 0.5, datasets.map(() => null));
    this.#push(at, values);
    while (this.#times.length > 0 && this.#times[0] < at - SECONDS - 2) {
      this.#times.shift();
      for (const { data } of datasets) data.shift();
    }
    for (const { data } of datasets) data.forEach((point, index) => (point.x = this.#times[index] - at));
    this.#chart.$now = at;
    this.#chart.update("none");
  }

  #push(at, values) {
    this.#times.push(at);
    this.#chart.data.datasets.forEach(({ data }, index) => data.push({ x: 0, y: values[index] }));
  }

  #paint() {
    const { datasets } = this.#chart.data;
    datasets.forEach((dataset, index) => {
      const own = colour(this.#series[index].colour);
      dataset.borderColor = own;
      dataset.backgroundColor = `${own}b0`;
    });
    for (const scale of Object.values(this.#chart.options.scales)) {
      scale.ticks.color = colour("faint");
      scale.grid.color = colour("line");
      scale.border.color = colour("line");
    }
    this.#chart.update("none");
  }

  static paintAll() {
    for (const chart of charts) chart.#paint();
  }
}

function options(stacked, format, reaches) {
  return {
    animation: false,
    events: [], // nothing to point at: a redraw for each move of the mouse costs more than it tells
    parsing: false,
    normalized: true,
    responsive: true,
    maintainAspectRatio: false,
    datasets: { line: { borderWidth: stacked ? 1 : 2, pointRadius: 0, tension: 0 } },
    plugins: { legend: { display: false }, tooltip: { enabled: false } },
    scales: {
      x: {
        type: "linear", min: -SECONDS, max: 0, border: {}, grid: { drawTicks: false },
        ticks: { stepSize: 30, maxRotation: 0, padding: 6, callback: (value) => (value === 0 ? "now" : `${value} s`) },
      },
      y: {
        stacked, beginAtZero: true, suggestedMax: reaches, border: { display: false }, grid: { drawTicks: false },
        // A width of its own: the chart must not shift when a figure becomes longer.
        afterFit: (scale) => (scale.width = 62),
        ticks: { maxTicksLimit: 5, padding: 6, callback: (value) => format(value) },
      },
    },
  };
}

/** Sets what all charts share. */
export function beginCharts() {
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 11;
  onTheme(TimeChart.paintAll);
}
