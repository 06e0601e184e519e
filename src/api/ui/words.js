// Elements, words and states that all parts of the page share. All data from the manager is set as text, never as
// markup; nothing is written to the document that is there already, so that an answer without news costs no layout.
'use strict';

const UNKNOWN_ZONE = 'zone unknown';
const NOT_KNOWN = 'not known';

/** The last answer. */
let picture = null;
/** What each element shows, as text: an element whose text stays the same is not filled again. */
const prints = new WeakMap();

const byId = (id) => document.getElementById(id);

// --- Elements ---------------------------------------------------------------------------------------

function make(tag, className = '', text = '') {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function glyph(role) {
  const space = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(space, 'svg');
  const use = document.createElementNS(space, 'use');
  svg.append(use);
  return become(svg, role);
}

function become(svg, role) {
  svg.setAttribute('class', `glyph ${role}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.firstChild.setAttribute('href', `#${role}`);
  return svg;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  hide(element, text === '');
}

function hide(element, isHidden) {
  if (element.hidden !== isHidden) element.hidden = isHidden;
}

function mark(element, className, isMarked) {
  if (element.classList.contains(className) !== isMarked) element.classList.toggle(className, isMarked);
}

function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** Whether an element shows something else than `data`; from now on it shows `data`. */
function isNews(element, ...data) {
  const print = JSON.stringify(data);
  if (prints.get(element) === print) return false;
  prints.set(element, print);
  return true;
}

/** Keeps one child element per item from one picture to the next, so that focus and opened nodes stay. */
function keep(parent, items, keyOf, create, fill) {
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  const there = new Map();
  for (const child of [...parent.children]) {
    if (wanted.has(child.dataset.key)) there.set(child.dataset.key, child);
    else child.remove();
  }
  let next = parent.firstElementChild;
  for (const [key, item] of wanted) {
    let child = there.get(key);
    if (!child) {
      child = create();
      child.dataset.key = key;
    }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    fill(child, item);
  }
}

/** Returns a link to the instance in the EC2 console, or its plain id where the console is not known. */
function consoleLink(instance) {
  if (!picture.console?.startsWith('https://') || !instance) return make('span', '', instance ?? NOT_KNOWN);
  const link = make('a', '', instance);
  link.href = picture.console + encodeURIComponent(instance);
  link.target = '_blank';
  link.rel = 'noopener noreferrer';
  link.title = `${instance} in the EC2 console`;
  return link;
}

/** Gives screen readers a change, in words. */
function announce(text) {
  byId('news').textContent = text;
}

// --- Words ------------------------------------------------------------------------------------------

const plural = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;

/** Formats a duration like `2h 5m`: at most the two largest units. */
function span(milliseconds) {
  let seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const parts = [];
  for (const [unit, length] of [['d', 86400], ['h', 3600], ['m', 60], ['s', 1]]) {
    const count = Math.floor(seconds / length);
    seconds -= count * length;
    if (count || (unit === 's' && !parts.length)) parts.push(count + unit);
  }
  return parts.slice(0, 2).join(' ');
}

const keyOf = (member) => member.node_id ?? member.instance_id ?? '?';
const nameOf = (member) => member.instance_id ?? member.node_id ?? 'unknown';
const zoneOf = (member) => member.zone ?? member.labels['skep.zone'] ?? UNKNOWN_ZONE;
const rank = (member) => (member.leader ? 'leader' : member.role);

const titleOf = (task) => (task.slot ? `${task.service}.${task.slot}` : task.service);
const stageOf = (task) => (task.stopping ? 'stopping' : task.state === 'running' ? 'running' : 'starting');
const wordsOf = (task) => (task.stopping ? `${task.state}, to stop` : task.state);

/** Returns the state of a node: one word for its style and for the filter, and a few words for the reader. */
function stateOf(member) {
  const docker = member.docker_state;
  if (docker === null && picture.fleet.source !== 'ledger') return ['dead', 'not on the node list'];
  if (docker === 'down') return ['dead', 'down'];
  if (member.leaving) return ['leaving', member.leaving.state];
  if (member.state === 'leaving') return ['leaving', 'leaving'];
  if (docker !== 'ready') {
    const row = member.state ? `; the ledger has ${member.state}` : '';
    return ['unknown', `${docker ?? 'unknown'}${row}`];
  }
  if (member.scheduling_hold) return ['apart', `${member.scheduling_hold}: stays, without new tasks`];
  if (member.docker_availability === 'drain') return ['apart', 'drained by hand: no tasks'];
  if (member.docker_availability === 'pause') return ['apart', 'paused: no new tasks'];
  if (!member.state) return ['apart', 'ready, not in the ledger'];
  return ['ready', member.state];
}
