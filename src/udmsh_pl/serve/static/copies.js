// Groups of copies side by side. A list can be saved; nothing is deleted here.

import { get, state, thumbnail, versioned } from "./api.js";
import { bytes, date, fileName, make, number, plural, toast } from "./dom.js";
import { view } from "./viewer.js";

const AT_ONCE = 30;
const RELATIONS = {
  first: "largest", exact: "exact copy", recompressed: "recompressed", resized: "resized",
  cropped: "cropped", mirrored: "mirrored", rotated: "rotated", similar: "similar",
};
let radius = null;

export async function copies(main, signal) {
  const waiting = () => main.replaceChildren(make("div", { class: "empty working" },
    make("h1", {}, "Looking for copies"), make("p", {}, "Each candidate is compared pixel by pixel. This is done once.")));
  const bits = state.info.bits;
  const chosen = radius ?? Math.floor(bits * 24 / 64);
  const page = (offset, limit = AT_ONCE) => get("duplicates", versioned({ radius: radius ?? undefined, offset, limit }), { signal, waiting });
  let found = await page(0);
  const list = make("div", { class: "groups" }, found.groups.map(group));
  const more = make("button", { type: "button", class: "more", hidden: found.groups.length >= found.total }, "Show more groups");
  let known = found.groups.length;
  more.addEventListener("click", async () => {
    found = await page(known);
    known += found.groups.length;
    list.append(...found.groups.map(group));
    more.hidden = known >= found.total;
  });
  const slider = make("input", { type: "range", id: "reach", min: 0, max: Math.floor(bits / 2), step: 1, change: () => { radius = Number(slider.value); restart(); } });
  slider.value = chosen;
  slider.style.setProperty("--at", chosen / Math.floor(bits / 2));
  const told = make("output", { for: "reach" }, `${chosen} of ${bits} bits`);
  slider.addEventListener("input", () => {
    told.textContent = `${slider.value} of ${bits} bits`;
    slider.style.setProperty("--at", slider.value / slider.max);
  });
  const restart = () => { waiting(); copies(main, signal).catch((error) => document.dispatchEvent(new CustomEvent("failed", { detail: error }))); };
  const head = make("div", { class: "head" },
    make("h1", {}, found.total ? `${plural(found.total, "group")} of copies` : "No copies"),
    make("p", { class: "hint" }, found.total ? `${plural(found.copies, "picture")} beside the first of each, ${bytes(found.bytes)}. Nothing is deleted here.` : "No two pictures of the collection show the same."),
    make("div", { class: "tools" },
      make("label", { for: "reach" }, "Codes may differ in"), slider, told,
      found.total ? make("button", { type: "button", click: () => saveList(page, found.total) }, "Save list of copies") : null));
  main.replaceChildren(head, list, more);
}

function group(copiesOf, place) {
  const most = Math.max(...copiesOf.map((one) => one.width * one.height));
  const largest = Math.max(...copiesOf.map((one) => one.size));
  const oldest = Math.min(...copiesOf.map((one) => one.modified));
  const mark = (text, best) => best ? make("b", {}, text) : text;
  const tiles = copiesOf.map((one) => make("li", { class: `copy ${one.relation}` },
    make("button", { type: "button", class: "picture", title: "Look at it", click: () => view(one, copiesOf) },
      make("img", { src: thumbnail(one.id), alt: "", loading: "lazy" }),
      make("span", { class: "badge" }, RELATIONS[one.relation] ?? one.relation)),
    make("a", { href: `#/like/${one.id}`, class: "name", title: one.name }, fileName(one.name)),
    make("dl", {},
      make("dt", {}, "Pixels"), make("dd", {}, mark(`${number(one.width)} × ${number(one.height)}`, one.width * one.height === most)),
      make("dt", {}, "File"), make("dd", {}, mark(bytes(one.size), one.size === largest)),
      make("dt", {}, "Date"), make("dd", {}, mark(date(one.modified), one.modified === oldest)),
      one.relation === "first" ? null : [make("dt", {}, "Agrees"), make("dd", {}, `${(100 * one.agreement).toFixed(0)} %`)])));
  return make("section", { class: "group", "aria-label": `Group of ${copiesOf.length} copies` },
    make("ul", { class: "side" }, tiles));
}

async function saveList(page, total) {
  const lines = [];
  for (let offset = 0; offset < total; offset += 500) {
    for (const one of (await page(offset, 500)).groups) {
      lines.push(...one.slice(1).map((copy) => `${state.info.root}/${copy.name}`));
    }
  }
  const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/plain" }));
  make("a", { href: url, download: "copies.txt" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  toast(`${plural(lines.length, "path")} in copies.txt`);
}
