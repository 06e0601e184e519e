// Draws the fleet. All data from the manager is set as text, never as markup.
'use strict';

/** From this number of nodes on, each node is drawn as small as possible. */
const MANY = 40;
/** Distance of two colours on the colour wheel in degrees; with it, no two colours are alike. */
const GOLDEN_ANGLE = 137.5;
const STEPS = ['requested', 'draining', 'drained', 'left'];
const UNKNOWN_ZONE = 'zone unknown';

/** The last answer. */
let picture = null;
/** The last text of each departure, so that only changes are read out. */
let told = new Map();
const opened = new Set();
const hues = new Map();

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
  element.hidden = text === '';
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
    const child = there.get(key) ?? create();
    child.dataset.key = key;
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    fill(child, item);
  }
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

/** Returns the state of a node: one word for its style, and a few words for the reader. */
function stateOf(member) {
  const docker = member.docker_state;
  if (docker === null && picture.fleet.source !== 'ledger') return ['dead', 'not on the node list'];
  if (docker === 'down') return ['dead', 'down'];
  if (member.leaving) return ['leaving', member.leaving.state];
  if (member.state === 'leaving') return ['leaving', 'leaving'];
  if (docker && docker !== 'ready') return ['apart', docker];
  if (member.scheduling_hold) return ['apart', `${member.scheduling_hold}: stays, without new tasks`];
  if (member.docker_availability === 'drain') return ['apart', 'drained by hand: no tasks'];
  if (member.docker_availability === 'pause') return ['apart', 'paused: no new tasks'];
  if (!member.state) return ['apart', 'ready, not in the ledger'];
  return ['ready', member.state];
}

// --- Drawing ----------------------------------------------------------------------------------------

function draw() {
  const { fleet } = picture;
  const leaving = fleet.members.filter((member) => member.leaving);
  leaving.sort((a, b) => Date.parse(a.leaving.deadline) - Date.parse(b.leaving.deadline));
  document.title = (leaving.length ? `(${leaving.length} leaving) ` : '') + `${picture.cluster} · skep`;
  document.body.classList.toggle('dense', fleet.members.length >= MANY);
  say(byId('cluster'), picture.cluster);
  drawFigures(fleet);
  say(byId('problem'), [
    ...(fleet.problem ? [`Not the whole fleet: ${fleet.problem}`] : []),
    ...(fleet.warnings ?? []),
  ].join(' · '));
  byId('leaving').hidden = leaving.length === 0;
  keep(byId('departures'), leaving, keyOf, createDeparture, fillDeparture);
  drawZones(fleet.members);
  say(byId('seen-by'), `seen by ${picture.seen_by}, skep ${picture.version}`);
  tellNews(leaving);
}

function drawFigures({ quorum, quorum_lost_since: lostSince, members }) {
  const count = (role) => plural(members.filter((member) => member.role === role).length, role);
  const figures = [];
  if (quorum) {
    const { managers, reachable, may_be_lost: spare } = quorum;
    const rest = spare ? `${spare} may be lost` : 'none may be lost';
    const text = `${reachable} of ${plural(managers, 'manager')} reachable, ${rest}`;
    figures.push({ name: 'Quorum', text, pips: [managers, reachable], alarm: reachable < managers });
  } else if (lostSince) {
    const at = new Date(lostSince).toLocaleTimeString();
    figures.push({ name: 'Quorum', text: `lost since ${at}`, alarm: true });
  } else {
    figures.push({ name: 'Quorum', text: 'not known', alarm: true });
  }
  figures.push({ name: 'Nodes', text: `${count('manager')}, ${count('worker')}` });
  if (picture.tasks) {
    const placed = picture.tasks.filter((task) => task.node_id);
    figures.push({ name: 'Tasks', text: String(placed.length) });
    const waiting = picture.tasks.length - placed.length;
    if (waiting) figures.push({ name: 'Tasks without a node', text: String(waiting), alarm: true });
  } else {
    figures.push({ name: 'Tasks', text: 'not known' });
  }
  const create = () => {
    const figure = make('div');
    figure.append(make('dt'), make('dd'));
    figure.lastChild.append(make('span', 'pips'), make('span'));
    return figure;
  };
  keep(byId('figures'), figures, (figure) => figure.name, create, (element, figure) => {
    const [name, value] = element.children;
    say(name, figure.name);
    value.className = figure.alarm ? 'alarm' : '';
    const [all, reachable] = figure.pips ?? [0, 0];
    const pips = Array.from({ length: all }, (_, n) => make('i', `pip manager${n < reachable ? '' : ' gone'}`));
    value.firstChild.replaceChildren(...pips);
    value.firstChild.hidden = all === 0;
    say(value.lastChild, figure.text);
  });
}

function createDeparture() {
  const item = make('li', 'departure');
  const head = make('div', 'head');
  head.append(glyph('worker'), make('strong', 'id'), make('span', 'why'), make('span', 'left'));
  const steps = make('ol', 'steps');
  for (const step of STEPS) steps.append(make('li', '', step));
  const bar = make('div', 'bar');
  bar.setAttribute('role', 'progressbar');
  bar.setAttribute('aria-label', 'time left');
  bar.append(make('i'));
  item.append(head, steps, make('p', 'waits'), bar);
  return item;
}

function fillDeparture(item, member) {
  const { leaving } = member;
  const [head, steps, waits] = item.children;
  become(head.children[0], rank(member));
  say(head.children[1], nameOf(member));
  const by = leaving.stand_in ? ', by the managers: its own skep does not answer' : '';
  say(head.children[2], `${leaving.reason}, ${zoneOf(member)}${by}`);
  const at = STEPS.indexOf(leaving.state);
  [...steps.children].forEach((step, n) => {
    step.className = n < at ? 'done' : n === at ? 'now' : '';
    if (n === at) step.setAttribute('aria-current', 'step');
    else step.removeAttribute('aria-current');
  });
  say(waits, leaving.waiting_for ? `Waits for ${leaving.waiting_for}.` : '');
  item.dataset.from = Date.parse(leaving.requested_at);
  item.dataset.until = Date.parse(leaving.deadline);
}

function drawZones(members) {
  const zones = new Map();
  for (const member of members) {
    const zone = zoneOf(member);
    zones.set(zone, [...(zones.get(zone) ?? []), member]);
  }
  const tasks = new Map();
  for (const task of picture.tasks ?? []) {
    tasks.set(task.node_id, [...(tasks.get(task.node_id) ?? []), task]);
  }
  const last = (zone) => Number(zone === UNKNOWN_ZONE);
  const sorted = [...zones].sort(([a], [b]) => last(a) - last(b) || a.localeCompare(b));
  const columns = sorted.map(([name, nodes]) => ({ name, nodes }));
  if (!columns.length) columns.push({ name: '', nodes: [] });
  const create = () => {
    const zone = make('section', 'zone');
    const title = make('h2');
    title.append(make('span'), make('small'));
    zone.append(title, make('div', 'nodes'));
    return zone;
  };
  keep(byId('zones'), columns, (column) => column.name, create, (zone, { name, nodes }) => {
    const [title, list] = zone.children;
    const count = nodes.reduce((sum, node) => sum + (tasks.get(node.node_id)?.length ?? 0), 0);
    say(title.firstChild, name || 'No node is known.');
    say(title.lastChild, name && `${plural(nodes.length, 'node')} · ${plural(count, 'task')}`);
    zone.classList.toggle('empty', !name);
    keep(list, nodes, keyOf, createNode, (node, member) => {
      fillNode(node, member, tasks.get(member.node_id) ?? []);
    });
  });
}

function createNode() {
  const node = make('article');
  const button = make('button');
  button.type = 'button';
  button.append(glyph('worker'), make('span', 'id'), make('span', 'sub'), make('time'), make('span', 'state'));
  button.addEventListener('click', () => {
    const { key } = node.dataset;
    if (!opened.delete(key)) opened.add(key);
    draw();
    tick();
  });
  node.append(button, make('p', 'verdict'), make('ul', 'tasks'), make('dl', 'facts'));
  return node;
}

function fillNode(node, member, tasks) {
  const [button, verdict, list, facts] = node.children;
  const [kind, words] = stateOf(member);
  const isOpen = opened.has(keyOf(member));
  node.className = `node ${kind}${isOpen ? ' open' : ''}`;
  const [role, id, sub, age, state] = button.children;
  become(role, rank(member));
  const short = document.body.classList.contains('dense') && !isOpen;
  say(id, short ? `…${nameOf(member).slice(-7)}` : nameOf(member));
  const parts = [rank(member), member.address, member.labels['skep.instance-type']];
  if (member.labels['skep.market'] === 'spot') parts.push('spot');
  say(sub, parts.filter(Boolean).join(' · '));
  button.title = nameOf(member);
  button.setAttribute('aria-expanded', String(isOpen));
  button.setAttribute('aria-label', `${rank(member)} ${nameOf(member)}, ${words}, ${plural(tasks.length, 'task')}`);
  age.dataset.since = member.joined_at ? Date.parse(member.joined_at) : '';
  say(state, words);
  if (member.leaving) {
    state.dataset.words = words;
    state.dataset.until = Date.parse(member.leaving.deadline);
  } else {
    delete state.dataset.until;
  }
  say(verdict, member.verdict ?? '');
  drawTasks(list, tasks);
  facts.hidden = !isOpen;
  if (isOpen) drawFacts(facts, member, tasks);
}

/** Draws a line for each service, with a mark for each of its tasks. */
function drawTasks(list, tasks) {
  const services = new Map();
  for (const task of tasks) services.set(task.service, [...(services.get(task.service) ?? []), task]);
  const lines = [...services].sort(([a], [b]) => a.localeCompare(b));
  if (!lines.length) lines.push(['', []]);
  keep(list, lines, ([service]) => service, () => {
    const line = make('li');
    line.append(make('span', 'name'), make('span', 'pips'));
    return line;
  }, (line, [service, own]) => {
    line.className = service ? '' : 'none';
    say(line.firstChild, service || (picture.tasks ? 'no tasks' : 'tasks not known'));
    const pips = own.map((task) => {
      const pip = make('i', `pip ${stageOf(task)}`);
      pip.title = `${titleOf(task)}: ${wordsOf(task)}`;
      pip.style.setProperty('--hue', `oklch(.64 .12 ${hue(service)})`);
      return pip;
    });
    line.lastChild.replaceChildren(...pips);
  });
}

const titleOf = (task) => (task.slot ? `${task.service}.${task.slot}` : task.service);
const stageOf = (task) => (task.stopping ? 'stopping' : task.state === 'running' ? 'running' : 'starting');
const wordsOf = (task) => (task.stopping ? `${task.state}, to stop` : task.state);

/** Returns the colour of a service, which stays while the page is open; the service's name is beside it. */
function hue(service) {
  if (!hues.has(service)) hues.set(service, (35 + hues.size * GOLDEN_ANGLE) % 360);
  return hues.get(service);
}

function drawFacts(facts, member, tasks) {
  const rows = [
    ['node', member.node_id],
    ['group', member.group],
    ['generation', member.generation],
    ['ledger', member.state],
    ['docker', [member.docker_state, member.docker_availability].filter(Boolean).join(', ')],
    ['departure', member.departure],
    ['row written', member.updated_at],
    ['in the swarm since', member.joined_at],
    ['labels', Object.entries(member.labels).map(([key, value]) => `${key}=${value}`).join(', ')],
    ['tasks', tasks.map((task) => `${titleOf(task)} (${wordsOf(task)})`).join(', ')],
  ];
  facts.replaceChildren(...rows.filter(([, value]) => value).flatMap(([name, value]) => [
    make('dt', '', name),
    make('dd', '', String(value)),
  ]));
}

/** Gives screen readers only the changes, not every second of a countdown. */
function tellNews(leaving) {
  const words = ({ state, waiting_for: why }) => (why ? `${state}, waits for ${why}` : state);
  const news = new Map(leaving.map((member) => [nameOf(member), words(member.leaving)]));
  const changed = [...news].filter(([name, text]) => told.get(name) !== text);
  const gone = [...told.keys()].filter((name) => !news.has(name)).map((name) => [name, 'no longer leaving']);
  const lines = [...changed, ...gone].map(([name, text]) => `${name}: ${text}`);
  if (lines.length) byId('news').textContent = lines.join('. ');
  told = news;
}
