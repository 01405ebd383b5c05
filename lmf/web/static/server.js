// The page's requests to the server. A session that is gone is opened again, with the same picture; a lost connection
// is tried again until it is back.

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
// comes back, or when the first takes long.
export class Frames {
  constructor(server, part, raw, events) {
    Object.assign(this, { server, part, raw, events });
    this.number = 0;
    this.shown = 0;
    this.state = null; // what is wanted
    this.asked = null; // what was asked for last
    this.flying = 0;
    this.since = 0;
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

  async ask(state) {
    const number = ++this.number;
    this.asked = state;
    this.flying += 1;
    this.since = performance.now();
    try {
      const answer = await this.server.post("/api/frame", { part: this.part, number, raw: this.raw, ...state });
      if (answer.status === 202) {
        this.events.progress((await answer.json()).encoded);
        if (this.asked === state) this.asked = null; // ask again
      } else if (answer.status === 200) {
        const frame = JSON.parse(answer.headers.get("lmf-frame"));
        const body = await answer.arrayBuffer();
        if (number > this.shown) {
          this.shown = number;
          await this.events.frame({ ...frame, state, body, exact: state === this.state });
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
