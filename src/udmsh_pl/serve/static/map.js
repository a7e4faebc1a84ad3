// The collection on a plane: small pictures from one sheet, large ones when zoomed in.

import { get, address, thumbnail, versioned } from "./api.js";
import { fileName, make, plural } from "./dom.js";
import { last } from "./results.js";

const SHARP = 46; // pixels of a picture, beyond which its own thumbnail is loaded
const LARGEST = 150;
const AT_A_TIME = 8; // thumbnails being loaded
const KEPT = 600; // thumbnails
let kept = null; // where the map was left

export async function map(main, signal, marked) {
  const waiting = () => main.replaceChildren(make("div", { class: "empty working" },
    make("h1", {}, "Drawing the map"), make("p", {}, "Pictures that are alike are put near each other. This is done once.")));
  const plane = await get("map", versioned(), { signal, waiting });
  const sheet = await imageOf(address("map/tiles", versioned()), signal, waiting);
  const canvas = make("canvas", { tabindex: "0", role: "application", "aria-roledescription": "map", "aria-describedby": "map-told",
    "aria-label": `Map of ${plural(plane.places.length, "picture")}; pictures that are alike are near each other` });
  const told = make("p", { class: "told", id: "map-told", role: "status" }, "Drag to move, turn the wheel to zoom, click a picture for others like it.");
  const button = (text, label, action) => make("button", { type: "button", "aria-label": label, title: label, click: action }, text);
  const sure = last.results.filter((one) => one.certainty !== "weak");
  const matches = marked ? (sure.length ? sure : last.results.slice(0, 20)) : [];
  const found = new Map(matches.toReversed().map((one) => [one.id, one.certainty])); // the best on top
  if (marked && last.query !== null) found.set(last.query, "query");
  const plot = new Plot(canvas, plane, sheet, found, told);
  const tools = make("div", { class: "zoom", role: "group", "aria-label": "Zoom" },
    button("+", "Zoom in", () => plot.zoom(1.6)), button("−", "Zoom out", () => plot.zoom(1 / 1.6)), button("⤢", "See all", () => plot.fit()));
  main.replaceChildren(make("div", { class: "plot" }, canvas, tools, told,
    found.size ? make("a", { class: "button unmark", href: "#/map" }, `${plural(matches.length, "match", "matches")} marked · show all`) : null));
  plot.start(signal);
}

function imageOf(url, signal, waiting) {
  return new Promise((done, broken) => {
    const load = async () => {
      const answer = await fetch(url, { signal });
      if (answer.status === 202) { waiting(); setTimeout(() => load().catch(broken), 700); return; }
      if (!answer.ok) throw new Error("The map's pictures cannot be loaded.");
      done(await createImageBitmap(await answer.blob()));
    };
    load().catch(broken);
  });
}

class Plot {
  constructor(canvas, plane, sheet, found, told) {
    Object.assign(this, { canvas, plane, sheet, found, told });
    this.pen = canvas.getContext("2d");
    this.tileOf = new Map(plane.tiles.map((row, place) => [row, place]));
    this.sharp = new Map();
    this.loading = 0;
    this.hovered = -1;
    this.view = kept?.version === plane.version ? kept : { version: plane.version, x: 0.5, y: 0.5, scale: 1 };
    kept = this.view;
    this.order = [...plane.places.keys()].filter((row) => !found.has(row)).concat([...found.keys()]);
  }

  start(signal) {
    const options = { signal };
    const watch = new ResizeObserver(() => this.resize());
    watch.observe(this.canvas);
    signal.addEventListener("abort", () => watch.disconnect());
    const touches = new Map();
    let moved = 0;
    let spread = 0;
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      if (!touches.size) moved = 0;
      touches.set(event.pointerId, [event.offsetX, event.offsetY]);
      spread = 0;
    }, options);
    this.canvas.addEventListener("pointermove", (event) => {
      const before = touches.get(event.pointerId);
      if (!before) { this.hover(this.at(event.offsetX, event.offsetY)); return; }
      touches.set(event.pointerId, [event.offsetX, event.offsetY]);
      const [dx, dy] = [event.offsetX - before[0], event.offsetY - before[1]];
      moved += Math.abs(dx) + Math.abs(dy);
      this.pan(dx / touches.size, dy / touches.size);
      if (touches.size === 2) {
        const [one, two] = [...touches.values()];
        const now = Math.hypot(one[0] - two[0], one[1] - two[1]);
        if (spread) this.zoom(now / spread, (one[0] + two[0]) / 2, (one[1] + two[1]) / 2);
        spread = now;
      }
    }, options);
    const up = (event) => {
      touches.delete(event.pointerId);
      spread = 0;
      if (event.type === "pointerup" && moved < 6 && !touches.size) this.open(this.at(event.offsetX, event.offsetY));
    };
    this.canvas.addEventListener("pointerup", up, options);
    this.canvas.addEventListener("pointercancel", up, options);
    this.canvas.addEventListener("pointerleave", () => this.hover(-1), options);
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), event.offsetX, event.offsetY);
    }, { signal, passive: false });
    this.canvas.addEventListener("keydown", (event) => this.key(event), options);
    this.canvas.addEventListener("blur", () => { this.byKeys = false; this.draw(); }, options);
    this.signal = signal;
  }

  key(event) {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (moves[event.key]) this.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter") this.open(this.hovered);
    else return;
    event.preventDefault();
    this.byKeys = true;
    this.hover(this.nearest(this.width / 2, this.height / 2));
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.draw();
  }

  /** Pixels that the plane's sides have at scale 1; a wide window stretches it a little. */
  get sides() {
    const least = Math.min(this.width, this.height);
    return [Math.min(this.width, least * 1.8) * 0.94, Math.min(this.height, least * 1.8) * 0.92];
  }

  get size() { // of a picture
    const [wide, high] = this.sides;
    const base = Math.min(46, Math.max(7, 0.95 * Math.sqrt((wide * high) / Math.max(1, this.plane.places.length))));
    return Math.min(LARGEST, base * this.view.scale ** 0.8);
  }

  toScreen(row) {
    const [x, y] = this.plane.places[row];
    const [wide, high] = this.sides;
    return [this.width / 2 + (x / 1e4 - this.view.x) * wide * this.view.scale, this.height / 2 + (y / 1e4 - this.view.y) * high * this.view.scale];
  }

  pan(dx, dy) {
    const [wide, high] = this.sides;
    this.view.x = Math.min(1, Math.max(0, this.view.x - dx / (wide * this.view.scale)));
    this.view.y = Math.min(1, Math.max(0, this.view.y - dy / (high * this.view.scale)));
    this.draw();
  }

  zoom(by, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(60, Math.max(0.7, this.view.scale * by));
    const [wide, high] = this.sides;
    const [dx, dy] = [(x - this.width / 2) / wide, (y - this.height / 2) / high];
    this.view.x = Math.min(1, Math.max(0, this.view.x + dx / this.view.scale - dx / scale));
    this.view.y = Math.min(1, Math.max(0, this.view.y + dy / this.view.scale - dy / scale));
    this.view.scale = scale;
    this.draw();
  }

  fit() { Object.assign(this.view, { x: 0.5, y: 0.5, scale: 1 }); this.draw(); }

  at(x, y) { return this.nearest(x, y, this.size / 2 + 2); }

  nearest(x, y, most = Infinity) {
    let best = -1;
    for (const row of this.order) { // a later one lies on top
      const [left, top] = this.toScreen(row);
      const far = Math.max(Math.abs(left - x), Math.abs(top - y));
      if (far <= most && (Number.isFinite(most) || best < 0 || far < this.far)) { best = row; this.far = far; }
    }
    return best;
  }

  async hover(row) {
    if (row === this.hovered) return;
    this.hovered = row;
    this.canvas.style.cursor = row < 0 ? "grab" : "pointer";
    this.draw();
    if (row < 0) return;
    const name = await nameOf(row);
    if (this.hovered === row) this.told.textContent = fileName(name);
  }

  open(row) { if (row >= 0) location.hash = `#/like/${row}`; }

  draw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => { this.asked = 0; this.paint(); });
  }

  paint() {
    if (this.signal?.aborted || !this.width) return;
    const { pen, size } = this;
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.clearRect(0, 0, this.width, this.height);
    pen.imageSmoothingQuality = "high";
    this.ground = colour("ground");
    const missing = [];
    for (const row of this.order) {
      const [x, y] = this.toScreen(row);
      if (x < -size || y < -size || x > this.width + size || y > this.height + size) continue;
      const mark = this.found.get(row);
      pen.globalAlpha = this.found.size && !mark ? 0.16 : 1;
      const side = mark && mark !== "weak" ? size * 1.35 : size;
      this.picture(row, x, y, side, colour("dot"), missing);
      if (mark) this.ring(x, y, side, colour(mark), mark === "weak" ? 1 : 2.5);
    }
    pen.globalAlpha = 1;
    if (this.hovered >= 0) {
      const [x, y] = this.toScreen(this.hovered);
      const side = Math.max(size * 1.25, 84);
      this.picture(this.hovered, x, y, side, colour("dot"), missing, true);
      this.ring(x, y, side, colour("accent"), 3);
    }
    this.load(missing);
  }

  picture(row, x, y, side, dot, missing, always = false) {
    const { pen } = this;
    const tile = this.tileOf.get(row);
    const own = this.sharp.get(row);
    if ((side > SHARP || always) && own === undefined) missing.push([Math.hypot(x - this.width / 2, y - this.height / 2) - (always ? 1e6 : 0), row]);
    if (side > 16 && pen.globalAlpha === 1) { // a seam, so that those that overlap can be told apart
      pen.fillStyle = this.ground;
      pen.fillRect(x - side / 2 - 1, y - side / 2 - 1, side + 2, side + 2);
    }
    if (own && side > SHARP * 0.8) {
      const least = Math.min(own.naturalWidth, own.naturalHeight);
      pen.drawImage(own, (own.naturalWidth - least) / 2, (own.naturalHeight - least) / 2, least, least, x - side / 2, y - side / 2, side, side);
    } else if (tile !== undefined) {
      const unit = this.plane.tile;
      pen.drawImage(this.sheet, (tile % this.plane.columns) * unit, Math.floor(tile / this.plane.columns) * unit, unit, unit, x - side / 2, y - side / 2, side, side);
    } else {
      pen.fillStyle = dot;
      pen.fillRect(x - side / 4, y - side / 4, side / 2, side / 2);
    }
  }

  ring(x, y, side, colour, width) {
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = width;
    this.pen.strokeRect(x - side / 2, y - side / 2, side, side);
  }

  load(missing) {
    missing.sort((one, two) => one[0] - two[0]);
    for (const [, row] of missing.slice(0, 200)) {
      if (this.loading >= AT_A_TIME) return;
      const image = new Image();
      this.loading += 1;
      this.sharp.set(row, null); // on its way
      const done = (result) => { this.loading -= 1; this.sharp.set(row, result); this.draw(); };
      image.onload = () => done(image);
      image.onerror = () => done(null);
      image.src = thumbnail(row);
      if (this.sharp.size > KEPT) this.sharp.delete(this.sharp.keys().next().value);
    }
  }
}

const names = new Map();
async function nameOf(row) {
  if (!names.has(row)) {
    const listing = await get("pictures", { offset: row, limit: 1 }).catch(() => null);
    names.set(row, listing?.pictures[0]?.name ?? "");
  }
  return names.get(row);
}
