// The page's requests to the server. A session that is gone is opened again, with the same picture; a lost connection
// is tried again until it is back.

import { decoded } from "./view.js";

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Server extends EventTarget {
  constructor() {
    super();
    this.session = null;
    this.file = null; // the last picture that was opened, to show it again in a new session
    this.lost = false;
    this.opening = null;
    addEventListener("pagehide", () => {
      if (this.session) navigator.sendBeacon("/api/close", this.session);
    });
  }

  // Open a session and return what the server offers.
  async open() {
    const offer = await (await this.fetch("/api/session", { method: "POST" })).json();
    this.session = offer.session;
    return offer;
  }

  async reopen() {
    this.opening ??= (async () => {
      try {
        const offer = await this.open();
        if (this.file) await this.upload(this.file);
        this.dispatchEvent(new CustomEvent("reopened", { detail: offer }));
      } finally {
        this.opening = null;
      }
    })();
    return this.opening;
  }

  // Send a request of the session; one more time if the session has gone.
  async call(path, options = {}, again = true) {
    const headers = { ...options.headers, "lmf-session": this.session };
    try {
      return await this.fetch(path, { ...options, headers });
    } catch (error) {
      if (!again || error.status !== 404) throw error;
      await this.reopen();
      return this.call(path, options, false);
    }
  }

  async post(path, content) {
    return this.call(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(content),
    });
  }

  async upload(file) {
    const headers = { "lmf-name": encodeURIComponent(file.name ?? "picture"), "lmf-session": this.session };
    const answer = await this.fetch("/api/picture", { method: "POST", headers, body: file });
    this.file = file;
    return (await answer.json()).picture;
  }

  async fetch(path, options) {
    let answer;
    try {
      answer = await fetch(path, { ...options, cache: "no-store" });
    } catch (error) {
      this.retry();
      throw new ServerError("The connection to the server is lost. Trying again…", 0);
    }
    if (answer.ok) return answer;
    const text = await answer.text();
    let message = `The server answered with status ${answer.status}.`;
    try {
      message = JSON.parse(text).error ?? message;
    } catch {
      // not of this server: a proxy's page
    }
    throw new ServerError(message, answer.status);
  }

  // Ask until the server answers again.
  async retry() {
    if (this.lost) return;
    this.lost = true;
    this.dispatchEvent(new Event("lost"));
    while (this.lost) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      try {
        await fetch("/icon.svg", { cache: "no-store" });
        this.lost = false;
      } catch {
        // still away
      }
    }
    this.dispatchEvent(new Event("back"));
  }
}

// Frames of one part of the page. At most two requests are on their way; the newest state is asked for as soon as one
// comes back, or when the first takes long. What the last frame shows already is kept and not asked for again.
export class Frames {
  constructor(server, part, raw, events) {
    Object.assign(this, { server, part, raw, events });
    this.number = 0;
    this.shown = 0; // number of the last frame
    this.frame = null; // the last frame
    this.state = null; // what is wanted
    this.asked = null; // what was asked for last
    this.flying = 0;
    this.since = 0;
  }

  // Drop the last frame, and those that are on their way: they are of another picture.
  forget() {
    this.frame = this.state = this.asked = null;
    this.shown = this.number;
  }

  want(state) {
    if (JSON.stringify(state) === JSON.stringify(this.state)) return;
    this.state = state;
    this.next();
  }

  again() {
    this.asked = null;
    this.next();
  }

  next() {
    if (!this.state || this.state === this.asked || this.server.lost) return;
    if (this.flying >= 2) return;
    if (this.flying === 1) {
      const left = 120 - (performance.now() - this.since);
      if (left > 0) {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.next(), left);
        return;
      }
    }
    this.ask(this.state);
  }

  // The last frame, if it shows pixels of a state. Levels are chosen for a view, so that its pixels are of no other.
  known(state) {
    const frame = this.frame;
    const same = frame && frame.state.method === state.method && frame.state.scale === state.scale;
    return same && !state.budget && !frame.state.budget ? frame : null;
  }

  async ask(state) {
    const number = ++this.number;
    const before = this.known(state);
    const held = before && {
      top: before.top,
      bottom: before.top + before.rows,
      left: before.left,
      right: before.left + before.columns,
    };
    this.asked = state;
    this.flying += 1;
    this.since = performance.now();
    try {
      const answer = await this.server.post("/api/frame", { part: this.part, number, raw: this.raw, held, ...state });
      if (answer.status === 202) {
        this.events.progress((await answer.json()).encoded);
        if (this.asked === state) this.asked = null; // ask again
      } else if (answer.status === 200) {
        const facts = JSON.parse(answer.headers.get("lmf-frame"));
        const frame = await decoded({ ...facts, state, before }, await answer.arrayBuffer(), this.raw);
        if (number > this.shown) {
          this.shown = number;
          this.frame = frame;
          this.events.frame(frame);
        }
      }
    } catch (error) {
      if (error.status) this.events.error(error);
      else if (error.status === 0) this.asked = null; // asked again when the connection is back
      else throw error;
    } finally {
      this.flying -= 1;
      this.next();
    }
  }
}
