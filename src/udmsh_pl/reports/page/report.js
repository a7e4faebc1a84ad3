"use strict";
// Click on a header: sort by it, then the other way round. Numbers by value, others by text.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v;
  };
  table.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
    const head = button.parentElement;
    const rows = [...body.rows];
    const numbers = rows.every((row) => key(row, column) === "" || !isNaN(key(row, column)));
    const first = numbers ? "descending" : "ascending";
    const other = numbers ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of table.querySelectorAll("th")) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const empty = (text) => (text === "" ? 1 : 0);
    rows.sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (empty(x) !== empty(y)) return empty(x) - empty(y);
      return sign * (numbers ? x - y : x.localeCompare(y, "en", { numeric: true }));
    });
    body.append(...rows);
  }));
}
// The value of the nearest point, under the pointer.
const tip = document.getElementById("tip");
let near = null;
function leave() {
  if (near) near.classList.remove("near");
  near = null;
  tip.hidden = true;
}
for (const chart of document.querySelectorAll("svg.chart")) {
  const show = (event) => {
    const box = chart.getBoundingClientRect();
    const scale = chart.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = 40 * 40, found = null;
    for (const point of chart.querySelectorAll(".line:not(.hidden) .point")) {
      const distance = (point.dataset.x - x) ** 2 + (point.dataset.y - y) ** 2;
      if (distance < best) [best, found] = [distance, point];
    }
    leave();
    if (!found) return;
    near = found;
    near.classList.add("near");
    tip.textContent = found.dataset.v;
    tip.hidden = false;
    const left = box.left + found.dataset.x / scale + 12, top = box.top + found.dataset.y / scale;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(8, Math.min(left, room)) + window.scrollX + "px";
    tip.style.top = Math.max(8, top - tip.offsetHeight - 10) + window.scrollY + "px";
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", leave);
}
// Click on a method: hide its lines, or show them again.
for (const button of document.querySelectorAll(".key")) button.addEventListener("click", () => {
  const shown = button.getAttribute("aria-pressed") === "false";
  for (const other of document.querySelectorAll(".key")) {
    if (other.dataset.m === button.dataset.m) other.setAttribute("aria-pressed", String(shown));
  }
  for (const line of document.querySelectorAll(".line")) {
    if (line.dataset.m === button.dataset.m) line.classList.toggle("hidden", !shown);
  }
});
