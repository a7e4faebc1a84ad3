// The page's frame: addresses, keys, pictures that are dropped, pasted or chosen, and the token.

import { loadInfo, send, state } from "./api.js";
import { browse } from "./browse.js";
import { copies } from "./copies.js";
import { $, make, number, plural, toast } from "./dom.js";
import { moveFocus } from "./grid.js";
import { map } from "./map.js";
import { like, upload } from "./results.js";
import { setUpViewer } from "./viewer.js";

const main = $("main");
const LOOK_AGAIN = 10_000; // milliseconds
let leaving = new AbortController();
let steps = 0; // from view to view, so that Esc knows whether there is a way back
let given = null; // the file that was searched with, for the way back

const [, token] = location.hash.match(/^#token=(.+)$/) ?? [];
if (token) history.replaceState(null, "", location.pathname);

/** Text of an address; a `%` that begins no code, typed by hand, stands for itself. */
function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function views() {
  const path = decoded(location.hash.replace(/^#\/?/, ""));
  const [, kind, rest] = path.match(/^([a-z]*)\/?(.*)$/s) ?? [];
  if (kind === "like" && /^\d+$/.test(rest)) return ["like", (signal) => like(main, signal, Number(rest))];
  if (kind === "name" && rest) return ["browse", (signal) => browse(main, signal, rest)];
  if (kind === "copies") return ["copies", (signal) => copies(main, signal)];
  if (kind === "map") return ["map", (signal) => map(main, signal, rest === "found")];
  if (kind === "yours" && given) return ["yours", (signal) => upload(main, signal, given)];
  return ["browse", (signal) => browse(main, signal)];
}

async function route() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [name, open] = views();
  document.body.dataset.view = name;
  showName();
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  main.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => main.replaceChildren(make("div", { class: "empty working" }, make("h1", {}, "One moment"))), 400);
  try {
    if (!state.info) await info();
    await open(signal);
    clearTimeout(slow);
    if (!location.hash.startsWith("#/name/")) scrollTo(0, 0);
    if (document.activeElement === document.body) main.focus({ preventScroll: true });
  } catch (error) {
    clearTimeout(slow);
    if (error.name !== "AbortError" && !signal.aborted) failed(error);
  }
  if (!signal.aborted) main.removeAttribute("aria-busy");
}

function failed(error) {
  if (error.status === 401 || error.status === 409) return;
  console.info(error.message);
  main.replaceChildren(make("div", { class: "empty", role: "alert" },
    make("h1", {}, "That did not work"), make("p", {}, error.message),
    make("p", {}, make("button", { type: "button", class: "primary", click: route }, "Try again"), " ", make("a", { class: "button", href: "#/" }, "All pictures"))));
}

async function info() {
  const facts = await loadInfo();
  $("title").textContent = document.title = facts.title;
  $("count").textContent = plural(facts.pictures, "picture");
  $("notice").textContent = facts.problem;
  $("notice").hidden = !facts.problem;
}

function searchWith(file) {
  if (!file) return;
  given = file;
  $("drop").hidden = true;
  if (location.hash === "#/yours") route();
  else location.hash = "#/yours";
}

function setUpPictures() {
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => { searchWith($("file").files[0]); $("file").value = ""; });
  const pictureOf = (data) => [...(data?.files ?? [])].find((file) => !file.type || file.type.startsWith("image/"));
  addEventListener("paste", (event) => {
    const file = pictureOf(event.clipboardData);
    if (file) { event.preventDefault(); searchWith(file); }
  });
  let depth = 0;
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (carries(event)) { depth += 1; $("drop").hidden = false; } });
  addEventListener("dragleave", (event) => { if (carries(event) && (depth -= 1) <= 0) { depth = 0; $("drop").hidden = true; } });
  addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    const file = pictureOf(event.dataTransfer);
    if (file) searchWith(file);
    else toast("That is no picture");
  });
}

let typing = 0; // the timer of a name that is still being typed

/** The field holds the name of the view, also after a step back; what is being typed stays. */
function showName() {
  const [, name = ""] = decoded(location.hash).match(/^#\/name\/(.*)$/s) ?? [];
  if (!typing && $("name").value.trim() !== name.trim()) $("name").value = name;
}

function setUpNames() {
  const go = () => { typing = 0; location.hash = $("name").value.trim() ? `#/name/${encodeURIComponent($("name").value.trim())}` : "#/"; };
  $("name").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(go, 200); });
  $("find").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(typing); go(); main.focus(); });
}

function setUpKeys() {
  const places = { 1: "#/", 2: "#/copies", 3: "#/map" };
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches("input, textarea, select");
    if (event.key === "Escape") {
      if (typing) event.target.blur();
      else if (location.hash.length > 2) {
        if (steps > 0) { steps -= 2; history.back(); } else location.hash = "#/"; // never off this page
      }
    } else if (typing) return;
    else if (event.key === "/") { event.preventDefault(); $("name").focus(); $("name").select(); }
    else if (event.key === "?") $("keys").showModal();
    else if (places[event.key]) location.hash = places[event.key];
    else if (moveFocus(event)) event.preventDefault();
  });
}

function setUpToken() {
  document.addEventListener("locked", () => { if (!$("login").open) $("login").showModal(); });
  $("login").addEventListener("cancel", (event) => event.preventDefault());
  $("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await login($("token").value)) { $("login").close(); $("token").value = ""; state.info = null; route(); }
  });
}

async function login(text) {
  try {
    await send("login", JSON.stringify({ token: text }), "application/json");
    return true;
  } catch (error) {
    $("login-wrong").textContent = error.status === 401 ? "That is not the token." : error.message;
    return false;
  }
}

async function changed() {
  const before = state.info?.version;
  await info().catch(() => {});
  if (state.info?.version === before) return;
  toast(`The index has changed: ${number(state.info.pictures)} pictures`);
  if (location.hash.startsWith("#/like/")) location.hash = "#/"; // its number is another picture's now
  else route();
}

setUpViewer();
setUpPictures();
setUpNames();
setUpKeys();
setUpToken();
document.addEventListener("outdated", changed);
document.addEventListener("failed", (event) => { if (event.detail.name !== "AbortError") failed(event.detail); });
addEventListener("hashchange", () => { steps += 1; route(); });
setInterval(() => { if (!document.hidden && state.info) changed(); }, LOOK_AGAIN);
if (token) await login(decoded(token));
route();
