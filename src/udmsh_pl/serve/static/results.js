// What a search found: the query, the slider, and the matches by how sure they are.

import { get, send, state, thumbnail, versioned } from "./api.js";
import { bytes, fileName, make, plural } from "./dom.js";
import { card, grid, matchNote } from "./grid.js";
import { view } from "./viewer.js";

const ASKED = 120;
const HEADS = {
  same: ["The same picture", "its details agree; mirrored or turned, too"],
  strong: ["Very alike", "more than 999 of 1,000 are to a typical picture"],
  likely: ["Alike", "more than 99 of 100"],
  weak: ["Less alike", "may be chance"],
};
export const last = { results: [], query: null }; // for the map
let radius = null; // kept from search to search

export async function like(main, signal, id) {
  const found = await get(`similar/${id}`, versioned({ k: ASKED }), { signal });
  const self = found.results.find((one) => one.id === id);
  const others = found.results.filter((one) => one.id !== id);
  const picture = self ?? { id, name: `picture ${id}`, width: 4, height: 3, size: 0, modified: 0 };
  const image = make("img", { src: thumbnail(id), alt: `Query: ${fileName(picture.name)}`, width: picture.width, height: picture.height });
  const open = make("button", { type: "button", class: "query", title: "Look at it", click: () => view(picture, [picture]) }, image);
  show(main, open, picture.name, { ...found, results: others }, id);
}

/** Search with a file of the user's. */
export async function upload(main, signal, file) {
  const limit = state.info.upload_bytes;
  if (file.size > limit) throw new Error(`${file.name || "The picture"} has ${bytes(file.size)}; at most ${bytes(limit)} are taken.`);
  const answer = await send(`search?k=${ASKED}`, file, file.type.startsWith("image/") ? file.type : "application/octet-stream", { signal });
  const found = await answer.json();
  const url = URL.createObjectURL(file);
  signal.addEventListener("abort", () => URL.revokeObjectURL(url));
  const image = make("img", { src: url, alt: "Your picture", error: () => { image.hidden = true; } });
  show(main, make("div", { class: "query" }, image), file.name || "Your picture", found, null);
}

function show(main, query, name, found, id) {
  const bits = state.info.bits;
  last.results = found.results;
  last.query = id;
  const slider = make("input", { type: "range", id: "radius", min: 0, max: bits, step: 1, "aria-describedby": "radius-told" });
  slider.value = Math.min(radius ?? bits, bits);
  const output = make("output", { for: "radius", id: "radius-told" });
  const sections = make("div", { class: "sections", "aria-live": "off" });
  const panel = make("aside", { class: "panel", "aria-label": "Query" },
    query,
    make("h1", { title: name }, fileName(name)),
    make("p", { class: "hint" }, `${plural(found.results.length, "match", "matches")} in ${found.milliseconds.toFixed(0)} ms`),
    make("label", { for: "radius" }, "Code distance at most"),
    histogram(found.results, bits),
    slider, output,
    found.results.length ? make("a", { class: "button", href: "#/map/found" }, "Show on the map") : null);
  const draw = () => {
    radius = Number(slider.value);
    const near = found.results.filter((one) => one.distance <= radius);
    output.textContent = radius >= bits ? `any distance: ${near.length} shown` : `${radius} of ${bits} bits: ${near.length} of ${found.results.length} shown`;
    slider.style.setProperty("--at", radius / bits);
    panel.querySelectorAll(".histogram i").forEach((bar, place) => bar.classList.toggle("out", place > radius));
    sections.replaceChildren(...parts(near));
    if (!near.length) {
      sections.append(make("div", { class: "empty" },
        make("h2", {}, `Nothing within ${plural(radius, "bit")}`),
        make("p", {}, "Move the slider to the right to see pictures that are less alike.")));
    }
  };
  slider.addEventListener("input", draw);
  draw();
  main.replaceChildren(make("div", { class: "results" }, panel, sections));
}

function* parts(matches) {
  for (const [certainty, [head, why]] of Object.entries(HEADS)) {
    const those = matches.filter((one) => one.certainty === certainty);
    if (!those.length) continue;
    const list = grid(head);
    list.append(...those.map((one) => card(one, matches, matchNote(one))));
    yield make("section", { class: `level ${certainty}` },
      make("h2", {}, head, make("small", {}, ` ${those.length} · ${why}`)), list);
  }
}

/** How many matches lie at each distance. */
function histogram(results, bits) {
  const counts = new Array(bits + 1).fill(0);
  for (const one of results) counts[one.distance] += 1;
  const most = Math.max(1, ...counts);
  const bars = counts.map((count) => {
    const bar = make("i");
    bar.style.setProperty("--height", (count / most).toFixed(3));
    return bar;
  });
  return make("div", { class: "histogram", "aria-hidden": "true" }, bars);
}
