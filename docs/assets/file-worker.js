"use strict";
// Browsers start no worker from a page on a disk; the search then runs in a hidden frame instead.
if (location.protocol === "file:") window.Worker = class extends EventTarget {
  constructor(url) {
    super();
    const frame = document.createElement("iframe");
    frame.hidden = true;
    document.body.append(frame);
    this.frame = frame;
    this.onmessage = null;
    window.addEventListener("message", (event) => {
      if (event.source !== frame.contentWindow) return;
      this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      if (this.onmessage) this.onmessage(event);
    });
    this.ready = new Promise((resolve) => { frame.onload = resolve; });
    frame.srcdoc = `<script>
      window.postMessage = (data) => parent.postMessage(data, "*");
      window.importScripts = (...urls) => Promise.all(urls.map((url) => new Promise((resolve) => {
        const script = document.createElement("script");
        script.src = url;
        script.onload = resolve;
        document.head.append(script);
      })));
    <\/script><script src="${new URL(url, location)}"><\/script>`;
  }
  postMessage(data) {
    this.ready.then(() => {
      const window = this.frame.contentWindow;
      window.dispatchEvent(new window.MessageEvent("message", { data, source: parent }));
    });
  }
  terminate() { this.frame.remove(); }
};
