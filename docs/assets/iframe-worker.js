/* A page that is opened from a disk may not start a worker; this runs the worker's script in a hidden frame instead,
   so that search works there, too. Files served over HTTP use the browser's own workers. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.queue = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inner = (this.inner = frame.contentWindow);
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inner.importScripts = (...sources) =>
        sources.reduce((before, source) => before.then(() => load(inner.document, source)), Promise.resolve());
      load(inner.document, url).then(() => {
        this.loaded = true;
        this.queue.forEach((data) => this.postMessage(data));
      });
    }
    postMessage(data) {
      if (this.loaded) this.inner.dispatchEvent(new MessageEvent("message", { data }));
      else this.queue.push(data);
    }
    terminate() {}
  };
  const load = (page, source) =>
    new Promise((resolve, reject) => {
      const script = page.createElement("script");
      script.src = source;
      script.onload = resolve;
      script.onerror = reject;
      page.body.appendChild(script);
    });
}
