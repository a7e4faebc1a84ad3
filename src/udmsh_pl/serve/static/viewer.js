// One picture as large as the window, with what is known of it.

import { $, bytes, copyText, date, fileName, make, number } from "./dom.js";
import { large, state, thumbnail } from "./api.js";

let shown = [];
let place = 0;

export function view(picture, others = [picture]) {
  shown = others.includes(picture) ? others : [picture];
  place = shown.indexOf(picture);
  draw();
  if (!$("viewer").open) $("viewer").showModal();
}

function draw() {
  const picture = shown[place];
  const image = $("viewed");
  const facts = $("facts");
  const problem = make("p", { class: "wrong", role: "alert" });
  image.src = thumbnail(picture.id); // at once, until the large one is there
  image.alt = fileName(picture.name);
  image.width = picture.width;
  image.height = picture.height;
  const better = new Image();
  better.onload = () => { if (shown[place] === picture) image.src = better.src; };
  better.onerror = async () => {
    const answer = await fetch(large(picture.id)).catch(() => null);
    const body = await answer?.json().catch(() => null);
    if (shown[place] === picture) problem.textContent = body?.detail ? `Only the thumbnail: ${body.detail}` : "Only the thumbnail can be shown.";
  };
  better.src = large(picture.id);
  const path = `${state.info.root}/${picture.name}`;
  facts.replaceChildren(
    make("b", { title: path }, picture.name),
    make("span", {}, `${number(picture.width)} × ${number(picture.height)} · ${bytes(picture.size)} · ${date(picture.modified)}`),
    problem,
    make("span", { class: "actions" },
      make("a", { class: "button primary", href: `#/like/${picture.id}`, click: close }, "More like this"),
      make("button", { type: "button", click: () => copyText(path) }, "Copy path")));
  for (const [name, there] of [["back", place > 0], ["on", place < shown.length - 1]]) {
    document.querySelector(`.viewer [data-do=${name}]`).disabled = !there;
  }
}

function step(by) {
  const next = place + by;
  if (next < 0 || next >= shown.length) return;
  place = next;
  draw();
}

export function close() {
  $("viewer").close();
  $("viewed").removeAttribute("src");
}

export function setUpViewer() {
  const dialog = $("viewer");
  const actions = { close, back: () => step(-1), on: () => step(1) };
  dialog.addEventListener("click", (event) => {
    const action = event.target.dataset?.do;
    if (action) actions[action]();
    else if (event.target === dialog) close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (event.key === "Enter" && !event.target.closest("button, a")) document.querySelector("#facts a").click();
    else return;
    event.preventDefault();
  });
}
