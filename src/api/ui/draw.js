// Draws the fleet: figures, departures under way, and the nodes by zone.
'use strict';

/** From this number of nodes on, each node is drawn as small as possible. */
const MANY = 40;
/** From this number of nodes on, a closed node shows the number of its tasks and not each task. */
const CROWD = 300;
/** Distance of two colours on the colour wheel in degrees; with it, no two colours are alike. */
const GOLDEN_ANGLE = 137.5;
const STEPS = ['requested', 'draining', 'drained', 'left'];

/** The last text of each departure, so that only changes are read out. */
let told = new Map();
const opened = new Set();
const hues = new Map();

// --- Drawing ----------------------------------------------------------------------------------------

function draw() {
  const { fleet } = picture;
  const leaving = fleet.members.filter((member) => member.leaving);
  leaving.sort((a, b) => Date.parse(a.leaving.deadline) - Date.parse(b.leaving.deadline));
  const title = (leaving.length ? `(${leaving.length} leaving) ` : '') + `${picture.cluster} · skep`;
  if (document.title !== title) document.title = title;
  mark(document.body, 'dense', fleet.members.length >= MANY);
  mark(document.body, 'crowd', fleet.members.length >= CROWD);
  say(byId('cluster'), picture.cluster);
  drawFigures(fleet);
  say(byId('problem'), [
    ...(fleet.problem ? [`Not the whole fleet: ${fleet.problem}`] : []),
    ...(fleet.warnings ?? []),
  ].join(' · '));
  hide(byId('leaving'), leaving.length === 0);
  keep(byId('departures'), leaving, keyOf, createDeparture, fillDeparture);
  drawDeparted(fleet);
  if (query.view === 'nodes') drawZones(fleet.members);
  else drawServices();
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
    figures.push({ name: 'Quorum', text: NOT_KNOWN, unknown: true });
  }
  figures.push({ name: 'Nodes', text: `${count('manager')}, ${count('worker')}` });
  if (picture.tasks) {
    const placed = picture.tasks.filter((task) => task.node_id);
    figures.push({ name: 'Tasks', text: String(placed.length) });
    const waiting = picture.tasks.length - placed.length;
    if (waiting) figures.push({ name: 'Tasks without a node', text: String(waiting), alarm: true });
  } else {
    figures.push({ name: 'Tasks', text: NOT_KNOWN, unknown: true });
  }
  const create = () => {
    const figure = make('div');
    figure.append(make('dt'), make('dd'));
    figure.lastChild.append(make('span', 'pips'), make('span'));
    return figure;
  };
  keep(byId('figures'), figures, (figure) => figure.name, create, (element, figure) => {
    if (!isNews(element, figure)) return;
    const [name, value] = element.children;
    say(name, figure.name);
    value.className = figure.alarm ? 'alarm' : figure.unknown ? 'unknown' : '';
    const [all, reachable] = figure.pips ?? [0, 0];
    const pips = Array.from({ length: all }, (_, n) => make('i', `pip manager${n < reachable ? '' : ' gone'}`));
    value.firstChild.replaceChildren(...pips);
    hide(value.firstChild, all === 0);
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
  if (!isNews(item, member)) return;
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
  for (const member of members) push(zones, zoneOf(member), member);
  const tasks = new Map();
  for (const task of picture.tasks ?? []) push(tasks, task.node_id, task);
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
  let shown = 0;
  keep(byId('zones'), columns, (column) => column.name, create, (zone, { name, nodes }) => {
    const [title, list] = zone.children;
    const count = nodes.reduce((sum, node) => sum + (tasks.get(node.node_id)?.length ?? 0), 0);
    say(title.firstChild, name || 'No node is known.');
    say(title.lastChild, name && `${plural(nodes.length, 'node')} · ${picture.tasks ? plural(count, 'task') : 'tasks not known'}`);
    mark(zone, 'empty', !name);
    let here = 0;
    keep(list, nodes, keyOf, createNode, (node, member) => {
      const own = tasks.get(member.node_id) ?? [];
      const isShown = isNodeShown(member, own);
      here += Number(isShown);
      hide(node, !isShown);
      fillNode(node, member, own);
    });
    hide(zone, Boolean(name) && here === 0);
    shown += here;
  });
  countShown(shown, members.length, 'node');
}

function push(lists, key, item) {
  if (lists.has(key)) lists.get(key).push(item);
  else lists.set(key, [item]);
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
  const isOpen = opened.has(keyOf(member));
  const { classList } = document.body;
  const [isDense, isCrowd] = [classList.contains('dense'), classList.contains('crowd')];
  const { fleet, seen_by: seenBy, version, console: page } = picture;
  const all = [member, tasks, isOpen, isDense, isCrowd, picture.tasks === null, fleet.source, seenBy, version, page];
  if (!isNews(node, ...all)) return;
  const [button, verdict, list, facts] = node.children;
  const [kind, words] = stateOf(member);
  node.className = `node ${kind}${isOpen ? ' open' : ''}`;
  const [role, id, sub, age, state] = button.children;
  become(role, rank(member));
  say(id, isDense && !isOpen ? `…${nameOf(member).slice(-7)}` : nameOf(member));
  const parts = [rank(member), member.hostname, member.address, member.labels['skep.instance-type']];
  if (member.labels['skep.market'] === 'spot') parts.push('spot');
  say(sub, parts.filter(Boolean).join(' · '));
  button.title = [nameOf(member), member.hostname].filter(Boolean).join(' ');
  button.setAttribute('aria-expanded', String(isOpen));
  const load = picture.tasks ? plural(tasks.length, 'task') : 'tasks not known';
  button.setAttribute('aria-label', `${rank(member)} ${button.title}, ${words}, ${load}`);
  age.dataset.since = member.joined_at ? Date.parse(member.joined_at) : '';
  say(state, words);
  if (member.leaving) {
    state.dataset.words = words;
    state.dataset.until = Date.parse(member.leaving.deadline);
  } else {
    delete state.dataset.until;
  }
  say(verdict, member.verdict ?? '');
  if (isCrowd && !isOpen) {
    list.replaceChildren(make('li', 'sum', load));
  } else {
    if (list.querySelector('.sum')) list.replaceChildren();
    drawTasks(list, tasks);
  }
  hide(facts, !isOpen);
  if (isOpen) drawFacts(facts, member, tasks);
}

/** Draws a line for each service, with a mark for each of its tasks. */
function drawTasks(list, tasks) {
  const services = new Map();
  for (const task of tasks) push(services, task.service, task);
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

/** Returns the colour of a service, which stays while the page is open; the service's name is beside it. */
function hue(service) {
  if (!hues.has(service)) hues.set(service, (35 + hues.size * GOLDEN_ANGLE) % 360);
  return hues.get(service);
}

function drawFacts(facts, member, tasks) {
  const isSeen = member.docker_state !== null;
  const rows = [
    ['instance', member.instance_id && consoleLink(member.instance_id)],
    ['host name', member.hostname ?? (isSeen && NOT_KNOWN)],
    ['node', member.node_id],
    ['group', member.group],
    ['engine', member.engine ?? (isSeen && NOT_KNOWN)],
    ['skep', member.instance_id === picture.seen_by && picture.version],
    ['generation', member.generation],
    ['ledger', member.state],
    ['docker', [member.docker_state, member.docker_availability].filter(Boolean).join(', ')],
    ['departure', member.departure],
    ['row written', member.updated_at],
    ['in the swarm since', member.joined_at],
    ['labels', Object.entries(member.labels).map(([key, value]) => `${key}=${value}`).join(', ')],
    ['tasks', tasks.map((task) => `${titleOf(task)} (${wordsOf(task)})`).join(', ')],
  ];
  facts.replaceChildren(...rows.filter(([, value]) => value).flatMap(([name, value]) => {
    const fact = make('dd', value === NOT_KNOWN ? 'unknown' : '');
    fact.append(typeof value === 'object' ? value : String(value));
    return [make('dt', '', name), fact];
  }));
}

/** Gives screen readers only the changes, not every second of a countdown. */
function tellNews(leaving) {
  const words = ({ state, waiting_for: why }) => (why ? `${state}, waits for ${why}` : state);
  const news = new Map(leaving.map((member) => [nameOf(member), words(member.leaving)]));
  const changed = [...news].filter(([name, text]) => told.get(name) !== text);
  const gone = [...told.keys()].filter((name) => !news.has(name)).map((name) => [name, 'no longer leaving']);
  const lines = [...changed, ...gone].map(([name, text]) => `${name}: ${text}`);
  if (lines.length) announce(lines.join('. '));
  told = news;
}
