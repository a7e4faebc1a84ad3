// Pictures in rows of equal height, and the keys that lead from one to the next.

import { fileName, make } from "./dom.js";
import { thumbnail } from "./api.js";
import { view } from "./viewer.js";

export const CERTAINTY = {
  same: "same picture",
  strong: "very alike",
  likely: "alike",
  weak: "less alike",
};

/** One picture of a grid. `note` stands under it; `others` are what the viewer steps through. */
export function card(picture, others, note) {
  const ratio = Math.min(3, Math.max(0.45, picture.width / picture.height || 1));
  const certainty = picture.certainty;
  const words = [fileName(picture.name)];
  if (certainty) words.push(CERTAINTY[certainty], `similarity ${picture.similarity.toFixed(2)}`, `${picture.distance} bits apart`);
  const image = make("img", {
    src: thumbnail(picture.id), alt: "", loading: "lazy", decoding: "async", draggable: "false",
    error: () => item.classList.add("lost"),
  });
  const link = make("a", { href: `#/like/${picture.id}`, "aria-label": words.join(", "), title: picture.name }, image, note ?? null);
  const look = make("button", { type: "button", class: "look", tabindex: "-1", "aria-label": `Look at ${fileName(picture.name)}`, click: () => view(picture, others) }, "⤢");
  const item = make("li", { class: `card ${certainty ?? ""}` }, link, look);
  item.style.setProperty("--ratio", ratio.toFixed(4));
  link.addEventListener("keydown", (event) => {
    if (event.key === " ") { event.preventDefault(); view(picture, others); }
  });
  return item;
}

/** What is written under a match. */
export function matchNote(picture) {
  const meter = make("span", { class: "meter" }, make("i"));
  meter.style.setProperty("--share", Math.max(0, picture.similarity).toFixed(3));
  return make("span", { class: "note", "aria-hidden": "true" },
    picture.certainty === "same" ? make("b", {}, "same picture") : meter,
    make("span", {}, picture.similarity.toFixed(2)),
    make("span", { class: "bits" }, `${picture.distance} bit${picture.distance === 1 ? "" : "s"}`));
}

export function grid(label) {
  return make("ul", { class: "grid", "aria-label": label });
}

const links = () => [...document.querySelectorAll("#main .card a")].filter((link) => link.offsetParent);

function nearest(from, all, down) {
  const here = from.getBoundingClientRect();
  const middle = here.left + here.width / 2;
  let best = null;
  let least = Infinity;
  for (const link of all) {
    const there = link.getBoundingClientRect();
    const gap = down ? there.top - here.bottom : here.top - there.bottom;
    if (link === from || gap < -here.height / 2) continue;
    const cost = Math.max(0, gap) * 4 + Math.abs(there.left + there.width / 2 - middle);
    if (cost < least) { least = cost; best = link; }
  }
  return best;
}

/** Arrows, Home and End among the pictures; true if the key was one of them. */
export function moveFocus(event) {
  const all = links();
  if (!all.length) return false;
  const from = document.activeElement;
  const place = all.indexOf(from);
  const inside = from === document.body || from?.id === "main";
  if (place < 0 && !inside) return false;
  let next = null;
  if (event.key === "ArrowRight") next = all[place < 0 ? 0 : Math.min(place + 1, all.length - 1)];
  else if (event.key === "ArrowLeft") next = all[Math.max(place - 1, 0)];
  else if (event.key === "ArrowDown") next = place < 0 ? all[0] : nearest(from, all, true);
  else if (event.key === "ArrowUp") next = place < 0 ? null : nearest(from, all, false);
  else if (event.key === "Home" && place >= 0) next = all[0];
  else if (event.key === "End" && place >= 0) next = all.at(-1);
  else return false;
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
  return next !== null;
}
