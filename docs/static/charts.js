// A chart beside each table of scores with intervals: a row for each method, a panel for each measure.
// The numbers are those of the table. Pointing at a row shows its values, its button leaves it out.

const SCORE = /^([-−+]?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?$/;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function score(cell) {
  const text = cell.textContent.trim();
  const found = SCORE.exec(text);
  if (!found) return null;
  return { text, mean: Number(found[1].replace("−", "-")), half: Number(found[2] ?? 0), strong: !!cell.querySelector("strong") };
}

// The names of a table's rows, and its columns of scores; null for a table of anything else.
export function read(table) {
  const headings = [...table.querySelectorAll("thead th")].map(cell => cell.textContent.trim());
  const rows = [...table.querySelectorAll("tbody tr")].map(row => [...row.children]);
  if (rows.length < 2 || rows.some(row => row.length !== headings.length)) return null;
  const measures = headings.slice(1).map((name, k) => ({ name, scores: rows.map(row => score(row[k + 1])) }));
  const withIntervals = measures.filter(({ scores }) => scores.filter(s => s?.half).length >= 2);
  if (!withIntervals.length) return null;
  return { names: rows.map(row => row[0].textContent.trim()), measures: withIntervals };
}

const MARGIN = 6; // at the left and right of a panel, percent

// Low and high end of the intervals shown.
function range(scores) {
  return [Math.min(...scores.map(s => s.mean - s.half)), Math.max(...scores.map(s => s.mean + s.half))];
}

function mark(found) {
  if (!found) return { cell: element("div", { className: "chart-cell" }) };
  const bar = element("span", { className: "chart-bar" });
  const dot = element("span", { className: `chart-dot${found.strong ? " chart-best" : ""}` });
  const value = element("span", { className: "chart-value" }, found.text);
  return { cell: element("div", { className: "chart-cell" }, bar, dot, value), bar, dot, value, found };
}

function place({ bar, dot, value, found }, [low, high]) {
  const at = x => MARGIN + ((100 - 2 * MARGIN) * (x - low)) / (high - low || 1);
  dot.style.left = `${at(found.mean)}%`;
  bar.style.left = `${at(found.mean - found.half)}%`;
  bar.style.width = `${at(found.mean + found.half) - at(found.mean - found.half)}%`;
  const isLeft = at(found.mean) > 30; // the value stands where there is room
  value.style.left = isLeft ? "" : `${at(found.mean + found.half)}%`;
  value.style.right = isLeft ? `${100 - at(found.mean - found.half)}%` : "";
}

export function chart({ names, measures }) {
  const rows = names.map((name, k) => {
    const button = element("button", { type: "button", title: "show or leave out" }, name);
    const marks = measures.map(({ scores }) => mark(scores[k]));
    button.setAttribute("aria-pressed", "true");
    const told = measures.map(({ name: measure, scores }) => `${measure} ${scores[k]?.text ?? "none"}`);
    button.setAttribute("aria-label", `${name}: ${told.join(", ")}`);
    return { button, marks, row: element("div", { className: "chart-row" }, button, ...marks.map(({ cell }) => cell)) };
  });
  const ends = measures.map(() => element("div", { className: "chart-ends" }));
  const isShown = ({ button }) => button.getAttribute("aria-pressed") === "true";
  const draw = () => {
    rows.forEach(row => row.row.classList.toggle("chart-off", !isShown(row)));
    measures.forEach(({ scores }, m) => {
      const shown = scores.filter((found, k) => found && isShown(rows[k]));
      if (!shown.length) return;
      const [low, high] = range(shown);
      ends[m].replaceChildren(...[low, high].map(end => element("span", {}, end.toFixed(2).replace("-", "−"))));
      rows.forEach(({ marks }) => marks[m].found && place(marks[m], [low, high]));
    });
  };
  rows.forEach(({ button }) => button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
    draw();
  }));
  const head = element("div", { className: "chart-row chart-head" }, element("span"),
    ...measures.map(({ name }) => element("span", {}, name)));
  const foot = element("div", { className: "chart-row" }, element("span"), ...ends);
  const grid = element("div", { className: "chart-grid" }, head, ...rows.map(({ row }) => row), foot);
  grid.style.setProperty("--measures", measures.length);
  draw();
  return element("details", { className: "chart" },
    element("summary", {}, "Chart of this table: point at a row for its values, press a name to leave it out"), grid);
}

let first = location.pathname.includes("/results/");
for (const table of document.querySelectorAll("article table")) {
  const scores = read(table);
  if (!scores) continue;
  const made = chart(scores);
  made.open = first; // the first of a page of results
  first = false;
  (table.closest(".pst-scrollable-table-container, .cell_output") ?? table).after(made);
}
