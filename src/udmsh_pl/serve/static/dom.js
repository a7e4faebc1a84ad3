// Elements without any HTML text, so that a picture's name can never become markup.

/** An element: properties that are functions are listeners, others are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat("en");
export const number = (value) => whole.format(value);

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${count.toFixed(unit && count < 100 ? 1 : 0)} ${units[unit]}`;
}

export function date(seconds) {
  const options = { year: "numeric", month: "short", day: "numeric" };
  return new Date(seconds * 1000).toLocaleDateString(undefined, options);
}

export const fileName = (name) => name.slice(name.lastIndexOf("/") + 1);

let hiding = 0;
export function toast(text) {
  const place = $("toast");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => place.classList.remove("shown"), 4000);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Path copied");
  } catch {
    toast(text); // without TLS a browser has no clipboard for us
  }
}
