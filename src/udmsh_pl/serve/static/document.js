// The API's document for people, from openapi.json, without anything from elsewhere.

import { $, make } from "./dom.js";

/** Text in which `this` is code. */
const prose = (text) => text.split("`").map((part, place) => (place % 2 ? make("code", {}, part) : part));

const answer = await fetch("openapi.json");
if (answer.ok) {
  const api = await answer.json();
  $("about").replaceChildren(...prose(api.info.description));
  $("example").textContent = `curl -F file=@picture.jpg ${new URL("search?k=5", document.baseURI)}`;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, facts] of Object.entries(methods)) {
      const rows = (facts.parameters ?? []).map((one) => make("tr", {},
        make("td", {}, make("code", {}, one.name)),
        make("td", {}, [one.description ?? one.schema.description ?? "", one.schema.default !== undefined ? `default ${JSON.stringify(one.schema.default)}` : ""].filter(Boolean).join("; "))));
      $("paths").append(make("section", { class: "path" },
        make("h2", {}, make("code", {}, method.toUpperCase()), make("code", {}, path)),
        make("p", {}, facts.summary ?? ""), facts.description ? make("p", {}, prose(facts.description)) : null,
        rows.length ? make("table", {}, make("tbody", {}, rows)) : null));
    }
  }
} else {
  $("about").textContent = answer.status === 401 ? "This collection has a token: open the page first, or send it as Authorization: Bearer." : `The server answered ${answer.status}.`;
}
