// The second figure: which share of a constant a linear function of g imitates, by the ranges of the angles.
import { Chart, add, number } from "./chart.js";
import { FORMS, evenPairs, imitation, transformations, valuesAt } from "./imitate.js";
import { DEGREE } from "./rotations.js";

const $ = id => document.getElementById(id);
const AXES = ["x", "y", "z"];
const BINS = 56;
const [LOW, HIGH] = [-1, 1.8];
const RANGES = Array.from({ length: 36 }, (_, k) => 5 + 5 * k); // degrees
const PRESETS = { "preset-3diebench": [90, 90, 90], "preset-all": [180, 180, 180], "preset-upright": [5, 5, 180] };

const pairs = evenPairs(2048);
const percent = share => `${number(100 * share, 1)} %`;
const inRadians = ranges => ranges.map(r => r * DEGREE);

function drawHistogram(form, values, share) {
  const counts = Array(BINS).fill(0);
  for (const value of values) {
    const bin = Math.floor(((value - LOW) / (HIGH - LOW)) * BINS);
    counts[Math.max(0, Math.min(BINS - 1, bin))] += 1 / values.length;
  }
  const chart = new Chart($(`histogram-${form}`), {
    width: 240,
    height: 150,
    x: { range: [LOW, HIGH], ticks: [-1, 0, 1], label: "best linear function of g" },
    y: { range: [0, Math.max(...counts)] },
    title: form === "euler" ? "Euler angles" : form,
  });
  const width = chart.x((HIGH - LOW) / BINS) - chart.x(0);
  counts.forEach((count, k) => {
    const x = chart.x(LOW + (k * (HIGH - LOW)) / BINS);
    const y = chart.y(count);
    add(chart.inside, "rect", { x, y, width, height: chart.bottom - y, class: "bar" });
  });
  chart.moveMarker(chart.marker("one"), 1);
  const output = $(`share-${form}`);
  output.dataset.share = share;
  output.textContent = percent(share);
}

// The shares while all three ranges are equal.
function drawCurves() {
  const chart = new Chart($("shares"), {
    width: 440,
    height: 240,
    x: { range: [0, 180], ticks: [0, 30, 60, 90, 120, 150, 180], label: "largest angle about each axis, degrees" },
    y: { range: [0, 1], ticks: [0, 0.5, 1], label: "share of a constant", text: t => `${100 * t} %` },
  });
  for (const form of ["quaternion", "matrix", "euler"])
    chart.curve(RANGES, RANGES.map(r => imitation(form, inRadians([r, r, r])).share), form);
  return chart;
}

export function startImitation() {
  const chart = drawCurves();
  const marker = chart.marker();
  const read = () => AXES.map(axis => Number($(`range-${axis}`).value));
  const show = () => {
    const ranges = read();
    AXES.forEach((axis, k) => ($(`range-${axis}`).nextElementSibling.textContent = `±${ranges[k]}°`));
    const turns = transformations(pairs, inRadians(ranges));
    for (const form of Object.keys(FORMS)) {
      const { share, coefficients } = imitation(form, inRadians(ranges));
      drawHistogram(form, valuesAt(turns, form, coefficients), share);
    }
    const equal = new Set(ranges).size === 1;
    marker.style.visibility = equal ? "visible" : "hidden";
    if (equal) chart.moveMarker(marker, ranges[0]);
    $("imitation").dataset.ranges = ranges.join(" ");
  };
  const set = ranges => {
    AXES.forEach((axis, k) => ($(`range-${axis}`).value = ranges[k]));
    show();
  };
  for (const axis of AXES)
    $(`range-${axis}`).addEventListener("input", event => {
      if ($("linked").checked) set(AXES.map(() => event.target.value));
      else show();
    });
  for (const [id, ranges] of Object.entries(PRESETS))
    $(id).addEventListener("click", () => {
      $("linked").checked = new Set(ranges).size === 1;
      set(ranges);
    });
  $("imitation").hidden = false;
  show();
  $("imitation").dataset.ready = "true";
}
