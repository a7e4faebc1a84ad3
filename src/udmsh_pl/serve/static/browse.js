// All pictures, or those whose name holds a text; more come as one scrolls.

import { get } from "./api.js";
import { make, number, plural } from "./dom.js";
import { card, grid } from "./grid.js";

const AT_ONCE = 120;

export async function browse(main, signal, name = "") {
  const list = grid("Pictures");
  const known = [];
  const more = make("button", { type: "button", class: "more", hidden: true }, "Show more");
  const page = async () => {
    const found = await get("pictures", { name, offset: known.length, limit: AT_ONCE }, { signal });
    known.push(...found.pictures);
    list.append(...found.pictures.map((picture) => card(picture, known)));
    more.hidden = known.length >= found.total || !found.pictures.length;
    return found.total;
  };
  const total = await page();
  if (!total) {
    main.replaceChildren(make("div", { class: "empty" },
      make("h1", {}, name ? `No picture is called “${name}”` : "There are no pictures yet"),
      make("p", {}, name ? "Part of a file's or folder's name is enough. To search by what is seen, give a picture." : "Add some to the folder and run udmsh index again.")));
    return;
  }
  const heading = name ? `${plural(total, "picture")} called “${name}”` : "Click a picture to find others like it";
  main.replaceChildren(
    make("div", { class: "head" }, make("h1", {}, heading),
      make("p", { class: "hint" }, name ? "" : "or drop, paste or choose one of your own")),
    list, more, make("p", { class: "end" }, `${number(total)} in all`));
  let loading = false;
  const load = async () => {
    if (loading || more.hidden) return;
    loading = true;
    try { await page(); } catch (error) { if (error.name !== "AbortError") more.textContent = `${error.message} Try again`; }
    loading = false;
  };
  more.addEventListener("click", load);
  const watcher = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) load(); }, { rootMargin: "800px" });
  watcher.observe(more);
  signal.addEventListener("abort", () => watcher.disconnect());
}
