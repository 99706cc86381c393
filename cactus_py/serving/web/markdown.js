// Markdown as models write it, as elements: headings, paragraphs, lists, tables, quotes, fenced code, and in lines code, strong,
// emphasis, strike-through and links. Made with createElement and text nodes, so that no text can become markup; links lead to
// http, https and mailto only, and a picture is a link to it: an answer makes the page load nothing.

import { el, iconButton } from "./dom.js";

// None of these expressions can match a run of characters in more than one way: a hostile line costs no more than its length.
const FENCE = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?!#)(?:\s(.*))?$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const isDivider = (line) => /^[-|: \t]+$/.test(line) && cells(line).every((cell) => /^:?-+:?$/.test(cell));
const MAX_DEPTH = 12; // of quotes and lists in each other

/** Text -> blocks: {kind, source, …}. `source` is what a block was made of, so that an unchanged block need not be drawn again. */
export function parse(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const found = [];
  let at = 0;
  const push = (kind, from, to, more) => {
    found.push({ kind, source: lines.slice(from, to).join("\n"), ...more });
    at = to;
  };
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) {
      at += 1;
      continue;
    }
    const fence = FENCE.exec(line);
    if (fence) {
      const close = new RegExp(`^ {0,3}${fence[2][0]}{${fence[2].length},}\\s*$`);
      let end = at + 1;
      while (end < lines.length && !close.test(lines[end])) end += 1;
      const indent = new RegExp(`^ {0,${fence[1].length}}`);
      const code = lines.slice(at + 1, end).map((row) => row.replace(indent, "")).join("\n");
      push("code", at, Math.min(end + 1, lines.length), { language: fence[3].trim().split(/\s/)[0], code });
      continue;
    }
    const heading = HEADING.exec(line);
    if (heading) {
      push("heading", at, at + 1, { level: heading[1].length, text: headingText(heading[2] ?? "") });
      continue;
    }
    if (RULE.test(line)) {
      push("rule", at, at + 1, {});
      continue;
    }
    if (QUOTE.test(line) && depth < MAX_DEPTH) {
      let end = at;
      while (end < lines.length && QUOTE.test(lines[end])) end += 1;
      const inner = lines.slice(at, end).map((row) => QUOTE.exec(row)[1]);
      push("quote", at, end, { children: blocks(inner, depth + 1) });
      continue;
    }
    if (ITEM.test(line) && depth < MAX_DEPTH) {
      const [end, list] = listAt(lines, at, depth);
      push("list", at, end, list);
      continue;
    }
    if (line.includes("|") && at + 1 < lines.length && isDivider(lines[at + 1])) {
      let end = at + 2;
      while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
      const sides = cells(lines[at + 1]).map((cell) => (/^:-+:$/.test(cell) ? "center" : /-:$/.test(cell) ? "end" : "start"));
      push("table", at, end, { sides, head: cells(line), rows: lines.slice(at + 2, end).map(cells) });
      continue;
    }
    let end = at + 1;
    while (end < lines.length && lines[end].trim() && !opens(lines[end])) end += 1;
    push("paragraph", at, end, { text: lines.slice(at, end).map((row) => row.trimStart()).join("\n") });
  }
  return found;
}

/** A heading's text without the signs that may close it. */
function headingText(text) {
  const trimmed = text.trim();
  let end = trimmed.length;
  while (trimmed[end - 1] === "#") end -= 1;
  return end === 0 || /\s/.test(trimmed[end - 1]) ? trimmed.slice(0, end).trimEnd() : trimmed;
}

/** Whether a line ends the paragraph before it. */
function opens(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

function width(space) {
  return space.replace(/\t/g, "    ").length;
}

/** The list that begins at a line: items of the same indentation, with what is indented more as their content. */
function listAt(lines, start, depth) {
  const first = ITEM.exec(lines[start]);
  const indent = width(first[1]);
  const ordered = /\d/.test(first[2]);
  const items = [];
  let item = null;
  let at = start;
  for (; at < lines.length; at += 1) {
    const line = lines[at];
    const found = ITEM.exec(line);
    const lead = width(/^\s*/.exec(line)[0]);
    if (found && lead <= indent + 1) {
      if (/\d/.test(found[2]) !== ordered || lead + 1 < indent || RULE.test(line)) break;
      item = { inner: indent + found[2].length + Math.min(Math.max(width(found[3]), 1), 4), lines: [found[4]] };
      items.push(item);
    } else if (!line.trim()) {
      let next = at + 1;
      while (next < lines.length && !lines[next].trim()) next += 1;
      if (next === lines.length) break;
      const further = ITEM.exec(lines[next]);
      const goesOn = width(/^\s*/.exec(lines[next])[0]) > indent + 1;
      if (!goesOn && !(further && /\d/.test(further[2]) === ordered)) break;
      item.lines.push("");
      at = next - 1;
    } else if (lead > indent + 1 || (!opens(line) && lines[at - 1].trim())) {
      item.lines.push(line.replace(/\t/g, "    ").slice(Math.min(lead, item.inner)));
    } else break;
  }
  const number = ordered ? parseInt(first[2], 10) : 1;
  return [at, { ordered, number, items: items.map((one) => blocks(one.lines, depth + 1)) }];
}

function cells(row) {
  return row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** A block as an element. */
export function draw(block) {
  switch (block.kind) {
    case "code": return drawCode(block);
    case "heading": return el(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.text));
    case "rule": return el("hr");
    case "quote": return el("blockquote", {}, ...block.children.map(draw));
    case "list": {
      const items = block.items.map((children) => {
        const [lead, ...rest] = children;
        const tight = lead && lead.kind === "paragraph";
        return el("li", {}, ...(tight ? inline(lead.text) : lead ? [draw(lead)] : []), ...rest.map(draw));
      });
      return el(block.ordered ? "ol" : "ul", { start: block.ordered && block.number !== 1 ? String(block.number) : null }, ...items);
    }
    case "table": {
      const row = (texts, tag) => el("tr", {}, ...block.head.map((_, i) => el(tag, { class: block.sides[i] ?? "start" }, ...inline(texts[i] ?? ""))));
      const table = el("table", {}, el("thead", {}, row(block.head, "th")), el("tbody", {}, ...block.rows.map((texts) => row(texts, "td"))));
      return el("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, table);
    }
    default: return el("p", {}, ...inline(block.text));
  }
}

function drawCode(block) {
  const copy = iconButton("copy", "Copy code", async () => {
    await navigator.clipboard.writeText(block.code);
    copy.classList.add("done");
    setTimeout(() => copy.classList.remove("done"), 1200);
  });
  const head = el("div", { class: "code-head" }, el("span", { text: block.language || "text" }), copy);
  return el("div", { class: "code" }, head, el("pre", { tabindex: "0" }, el("code", { text: block.code })));
}

// What can begin inside a line. Each alternative is bounded by a character that it cannot hold, or by a lazy run, so that no
// text makes the match slow: longer runs than MAX_SPAN are left as they are.
const SPAN = new RegExp(
  [
    "(?<tick>`+)(?<code>[^`](?:[^]{0,2000}?[^`])?)\\k<tick>(?!`)",
    "\\*\\*(?<strong>(?=\\S)[^]{1,2000}?\\S?)\\*\\*(?!\\*)",
    "(?<![\\w_])__(?<strong2>(?=\\S)[^]{1,2000}?)__(?![\\w_])",
    "~~(?<strike>(?=\\S)[^~]{1,2000})~~",
    "\\*(?<em>(?=[^\\s*])[^*]{1,2000}?)\\*(?!\\*)",
    "(?<![\\w_])_(?<em2>(?=[^\\s_])[^_]{1,2000}?)_(?![\\w_])",
    "!?\\[(?<label>[^\\[\\]]{0,1000})\\]\\((?<target>[^\\s()]{1,2000}(?:\\([^\\s()]{0,500}\\)[^\\s()]{0,500})?)(?:\\s+\"[^\"]{0,500}\")?\\)",
    "(?<url>https?:\\/\\/[^\\s<>\"'`]{1,2000}[^\\s<>\"'`.,;:!?)\\]}*_])",
    "\\\\(?<escaped>[\\\\`*_{}\\[\\]()#+\\-.!|~<>])",
    "(?<br> {2,8}\\n|<br ?\\/?>)",
  ].join("|"),
  "gu",
);

/** A line's text as nodes. */
export function inline(text, depth = 0) {
  if (depth > 6) return [text];
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(SPAN)) {
    const found = match.groups;
    if (match.index > from) nodes.push(text.slice(from, match.index));
    from = match.index + match[0].length;
    const within = (value) => inline(value, depth + 1);
    if (found.code !== undefined) nodes.push(el("code", { text: found.code.replace(/^ (.*) $/s, "$1") }));
    else if (found.strong !== undefined) nodes.push(el("strong", {}, ...within(found.strong)));
    else if (found.strong2 !== undefined) nodes.push(el("strong", {}, ...within(found.strong2)));
    else if (found.strike !== undefined) nodes.push(el("s", {}, ...within(found.strike)));
    else if (found.em !== undefined) nodes.push(el("em", {}, ...within(found.em)));
    else if (found.em2 !== undefined) nodes.push(el("em", {}, ...within(found.em2)));
    else if (found.target !== undefined) nodes.push(link(found.target, found.label || found.target) ?? match[0]);
    else if (found.url !== undefined) nodes.push(link(found.url, found.url) ?? match[0]);
    else if (found.escaped !== undefined) nodes.push(found.escaped);
    else nodes.push(el("br"));
  }
  if (from < text.length) nodes.push(text.slice(from));
  return nodes;
}

/** A link, or null where the address is none that a reader should be led to. */
function link(target, label) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return el("a", { href: url.href, rel: "noopener noreferrer nofollow", target: "_blank", text: label });
}

/** Shows `text` in `place`; called again with a longer text, it draws only the blocks that differ. */
export function show(place, text) {
  const next = parse(text);
  const shown = place.shownSources ?? [];
  let same = 0;
  while (same < next.length && same < shown.length && next[same].source === shown[same]) same += 1;
  while (place.childNodes.length > same) place.lastChild.remove();
  for (const block of next.slice(same)) place.append(draw(block));
  place.shownSources = next.map((block) => block.source);
}
