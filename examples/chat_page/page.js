import { Answer, segments } from "./answer.js";

const EVENTS = [
  "message-start", "content-start", "content-delta", "content-end", "tool-plan-delta",
  "tool-call-start", "tool-call-delta", "tool-call-end", "citation-start", "citation-end", "message-end",
];
const SAMPLES = [
  { kind: "documents", question: "Where do the tallest penguins live?" },
  { kind: "tools", question: "How is the weather in Lisbon?" },
  { kind: "thinking", question: "How many days are there from 20 March to 1 May?" },
  { kind: "plain", question: "What is reactive programming?" },
];
const $ = (selector, root = document) => root.querySelector(selector);

// One answer on the page: it reads a stream of the journal, and shows what came.
class AnswerView {
  constructor({ id, question, kind }) {
    Object.assign(this, { id, question, kind });
    this.answer = new Answer();
    this.lastId = "";
    this.paragraphs = {};
    this.element = $("#answer").content.firstElementChild.cloneNode(true);
    this.element.dataset.stream = id;
    $(".question", this.element).textContent = question;
    $(".go-on", this.element).onclick = () => goOn(this);
    $("#answers").append(this.element);
    this.#setStatus("waiting");
    this.#read();
  }

  get running() {
    return ["waiting", "streaming", "reconnecting"].includes(this.status);
  }

  stop() {
    fetch(`/streams/${this.id}/abort`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ reason: "stopped by the reader" }),
    }).catch((error) => alert(error.message));
  }

  // EventSource goes on by itself where it was when a connection breaks: the ids are the journal's.
  #read() {
    const source = new EventSource(`/streams/${this.id}`);
    for (const type of EVENTS) {
      source.addEventListener(type, (frame) => {
        this.answer.take(JSON.parse(frame.data));
        this.lastId = frame.lastEventId;
        this.#setStatus("streaming");
      });
    }
    source.addEventListener("message", (frame) => {
      if (frame.data !== "[DONE]") return;
      source.close();
      this.#setStatus("complete");
    });
    source.addEventListener("error", (frame) => {
      if (frame.data !== undefined) { // how the stream ended, from the server
        source.close();
        this.#failed(JSON.parse(frame.data));
      } else if (source.readyState === EventSource.CLOSED) {
        this.#refused();
      } else {
        this.#setStatus("reconnecting");
      }
    });
  }

  #failed({ error, message }) {
    if (error === "StreamCancelledError") this.#setStatus("stopped", message);
    else this.#setStatus("cut", error ? `${error}: ${message}` : message);
  }

  // The server does not go on: all has come, or nothing will. Only fetch tells why.
  async #refused() {
    const reason = this.answer.finishReason;
    if (reason !== null && !["ERROR", "TIMEOUT"].includes(reason)) return this.#setStatus("complete");
    try {
      const response = await fetch(`/streams/${this.id}?after=${this.lastId}`);
      if (response.ok) {
        response.body?.cancel();
        throw new Error("it could not be read just now: reload");
      }
      this.#failed(await response.json());
    } catch (error) {
      this.#setStatus("cut", error.message);
    }
  }

  #setStatus(status, detail = "") {
    this.status = status;
    this.detail = detail;
    this.painting ??= requestAnimationFrame(() => {
      this.painting = undefined;
      this.#paint();
    });
    updateButtons();
  }

  #paint() {
    const { answer, element } = this;
    element.dataset.status = this.status;
    fill($(".thinking", element), $(".thinking p", element), answer.thinking);
    fill($(".plan", element), $(".plan", element), answer.plan);
    $(".calls", element).replaceChildren(...[...answer.calls.values()].map(callCard));
    for (const [index, block] of answer.blocks) if (block.text) this.#paintText(index, block);
    const sources = answer.sources;
    $("ol.sources", element).hidden = !sources.length;
    $("ol.sources", element).replaceChildren(...sources.map((s) => make("li", titleOf(s))));
    const status = $(".status", element);
    status.dataset.status = this.status;
    status.textContent = this.detail ? `${this.status}: ${this.detail}` : this.status;
    const tokens = answer.usage?.tokens;
    $(".facts", element).textContent = [
      `${answer.entries} frames`,
      answer.finishReason,
      tokens && `${tokens.input_tokens} + ${tokens.output_tokens} tokens`,
    ].filter(Boolean).join(" · ");
    const goesOn = this.status === "complete" && answer.finishReason === "TOOL_CALL";
    $(".go-on", element).hidden = !goesOn || views.at(-1) !== this;
  }

  // Only from the first stretch on that is another now, so that what one points at stays.
  #paintText(index, block) {
    const paragraph = (this.paragraphs[index] ??= $(".text", this.element).appendChild(make("p")));
    const now = segments(block);
    const before = paragraph.segments ?? [];
    let same = 0;
    while (same < before.length && isSame(before[same], now[same])) same += 1;
    while (paragraph.childNodes.length > same) paragraph.lastChild.remove();
    paragraph.append(...now.slice(same).map(piece));
    paragraph.segments = now;
    if (!shownFor?.isConnected) hideSources();
  }
}

const isSame = (a, b) => b && a.text === b.text && a.citations.length === b.citations.length;

function make(tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function fill(box, element, text) {
  box.hidden = !text;
  element.textContent = text;
}

function callCard(call) {
  const card = make("div");
  card.className = "call";
  card.append(make("h3", `${call.name}${call.complete ? "" : " …"}`), make("pre", call.arguments));
  return card;
}

function piece({ text, citations }) {
  if (!citations.length) return document.createTextNode(text);
  const mark = make("mark", text);
  mark.tabIndex = 0;
  mark.onpointerenter = mark.onfocus = () => showSources(mark, citations);
  mark.onpointerleave = mark.onblur = hideSources;
  return mark;
}

const titleOf = (source) => source.document?.title ?? source.id ?? "a source";

let shownFor = null;

function hideSources() {
  shownFor = null;
  $("#sources").hidePopover();
}

function showSources(mark, citations) {
  shownFor = mark;
  const found = new Map(citations.flatMap((c) => c.sources ?? []).map((s) => [s.id, s]));
  const box = $("#sources");
  box.replaceChildren(...[...found.values()].flatMap((source) => [
    make("h4", titleOf(source)),
    make("p", source.document?.snippet ?? JSON.stringify(source.tool_output ?? source.document ?? {})),
  ]));
  const place = mark.getBoundingClientRect();
  box.style.left = `${Math.max(Math.min(place.left, innerWidth - 400), 0) + scrollX}px`;
  box.style.top = `${place.bottom + scrollY + 6}px`;
  box.showPopover();
}

// The conversation is in the address, so that a reload, or another tab, shows it again.
const views = [];

function remember() {
  const told = views.map(({ id, question, kind }) => ({ id, question, kind }));
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(told))}`);
}

function show(told) {
  views.push(new AnswerView(told));
  updateButtons();
}

function restore() {
  try {
    for (const told of JSON.parse(decodeURIComponent(location.hash.slice(1)) || "[]")) {
      if (/^[\w.:-]{1,200}$/.test(told.id)) show(told); // anybody can make up an address
    }
  } catch {
    history.replaceState(null, "", location.pathname); // not an address of ours
  }
}

async function ask(question, kind, after) {
  const response = await fetch("/ask", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ question, kind, after }),
  });
  if (!response.ok) throw new Error(await response.text());
  const { stream_id: id } = await response.json();
  show({ id, question, kind });
  remember();
}

function goOn(view) {
  const button = $(".go-on", view.element);
  button.hidden = true;
  ask(view.question, view.kind, view.id).catch((error) => {
    button.hidden = false;
    alert(error.message);
  });
}

function updateButtons() {
  $("#stop").disabled = !views.some((view) => view.running);
}

let kind = SAMPLES[0].kind;

function choose(sample) {
  kind = sample.kind;
  $("#question").value = sample.question;
  for (const button of $("#samples").children) button.ariaPressed = button.dataset.kind === kind;
}

for (const sample of SAMPLES) {
  const button = make("button", sample.kind);
  button.type = "button";
  button.dataset.kind = sample.kind;
  button.onclick = () => choose(sample);
  $("#samples").append(button);
}
$("#form").onsubmit = (event) => {
  event.preventDefault();
  ask($("#question").value, kind).catch((error) => alert(error.message));
};
$("#stop").onclick = () => views.filter((view) => view.running).forEach((view) => view.stop());

choose(SAMPLES[0]);
restore();
