// What the server is asked. Everything it says of a version is thrown away when there is a newer one.

export const state = { info: null };

export class Problem extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

const announce = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function answerOf(path, options) {
  for (let tries = 0; ; tries += 1) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, "The server does not answer. Is udmsh serve still running?");
    }
    const again = answer.status === 202 || ((answer.status === 503 || answer.status === 429) && tries < 5);
    if (again) {
      if (answer.status === 202 && options.waiting) options.waiting();
      await pause(700 + 300 * Math.min(tries, 5));
      if (options.signal?.aborted) throw new DOMException("left", "AbortError");
      continue;
    }
    if (answer.ok) return answer;
    let detail = `The server answered ${answer.status}.`;
    try {
      const body = await answer.json();
      if (typeof body.detail === "string") detail = body.detail;
    } catch { /* not ours; the status has to do */ }
    if (answer.status === 401 && path !== "login") announce("locked");
    if (answer.status === 409) announce("outdated");
    throw new Problem(answer.status, detail);
  }
}

/** A path with its query; undefined values are left out. */
export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const text = new URLSearchParams(given).toString();
  return text ? `${path}?${text}` : path;
}

export async function get(path, query = {}, options = {}) {
  return (await answerOf(address(path, query), options)).json();
}

export async function send(path, body, kind, options = {}) {
  const headers = { "Content-Type": kind };
  return answerOf(path, { ...options, method: "POST", body, headers });
}

export async function loadInfo() {
  state.info = await get("info");
  return state.info;
}

export const thumbnail = (id) => address(`thumbnail/${id}`, { version: state.info.version });
export const large = (id) => address(`picture/${id}`, { version: state.info.version });
export const versioned = (query = {}) => ({ ...query, version: state.info.version });
