// What a stream of Cohere's events says so far. Knows the protocol, and nothing of the page.

export class Answer {
  blocks = new Map(); // index -> { thinking, text, citations }
  plan = "";
  calls = new Map(); // index -> { name, arguments, complete }
  usage = null;
  finishReason = null;
  entries = 0;

  take(event) {
    this.entries += 1;
    const message = event.delta?.message;
    switch (event.type) {
      case "content-start":
      case "content-delta": {
        const block = this.#block(event.index ?? 0);
        block.text += message?.content?.text ?? "";
        block.thinking += message?.content?.thinking ?? "";
        break;
      }
      case "citation-start": {
        const citation = message?.citations;
        // Citations of a tool plan count characters of the plan, which is not marked here.
        if (citation && (citation.type ?? "TEXT_CONTENT") === "TEXT_CONTENT") {
          this.#block(citation.content_index ?? 0).citations.push(citation);
        }
        break;
      }
      case "tool-plan-delta":
        this.plan += message?.tool_plan ?? "";
        break;
      case "tool-call-start":
      case "tool-call-delta": {
        const index = event.index ?? 0;
        const call = this.calls.get(index) ?? { name: "", arguments: "", complete: false };
        call.name += message?.tool_calls?.function?.name ?? "";
        call.arguments += message?.tool_calls?.function?.arguments ?? "";
        this.calls.set(index, call);
        break;
      }
      case "tool-call-end":
        this.calls.get(event.index ?? 0).complete = true;
        break;
      case "message-end":
        this.finishReason = event.delta?.finish_reason ?? "";
        this.usage = event.delta?.usage ?? null;
        break;
    }
  }

  get thinking() {
    return [...this.blocks.values()].map((block) => block.thinking).join("");
  }

  // The sources of all citations, each once.
  get sources() {
    const found = new Map();
    for (const block of this.blocks.values()) {
      for (const citation of block.citations) {
        for (const source of citation.sources ?? []) found.set(source.id, source);
      }
    }
    return [...found.values()];
  }

  #block(index) {
    if (!this.blocks.has(index)) this.blocks.set(index, { text: "", thinking: "", citations: [] });
    return this.blocks.get(index);
  }
}

// The text of a block in stretches, each with the citations that cover it. Offsets count code
// points, which a string in a browser does not; hence the detour over an array of them.
export function segments({ text, citations }) {
  const points = Array.from(text);
  const clip = (offset) => Math.min(Math.max(offset ?? 0, 0), points.length);
  const spans = citations.map((citation) => [clip(citation.start), clip(citation.end), citation]);
  const cuts = [...new Set([0, points.length, ...spans.flatMap(([start, end]) => [start, end])])];
  cuts.sort((a, b) => a - b);
  return cuts.slice(1).map((end, position) => ({
    text: points.slice(cuts[position], end).join(""),
    citations: spans.filter(([from, to]) => from <= cuts[position] && end <= to).map((span) => span[2]),
  }));
}
