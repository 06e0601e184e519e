// The view by service, and the departures of the last day.
'use strict';

/** Nodes that are named in a row; the others are counted, and a link leads to all. */
const NODES_NAMED = 6;
/** Departures that are listed; the others are counted. */
const DEPARTED_LISTED = 200;

/** Returns each service with its numbers: those that Docker lists, and those that are removed and still have tasks. */
function servicesOf(services, tasks) {
  const all = new Map(services.map((service) => [service.name, { ...service, tasks: [] }]));
  for (const task of tasks) {
    if (!all.has(task.service)) {
      all.set(task.service, { name: task.service, mode: 'removed', image: null, wanted: 0, tasks: [] });
    }
    all.get(task.service).tasks.push(task);
  }
  return [...all.values()].map(judge).sort((a, b) => a.name.localeCompare(b.name));
}

/** Adds to a service what runs, what does not and why, and whether it needs attention. */
function judge(service) {
  const running = service.tasks.filter((task) => stageOf(task) === 'running').length;
  const stages = new Map();
  for (const task of service.tasks) {
    if (stageOf(task) === 'running') continue;
    const text = task.why ? `${wordsOf(task)}: ${task.why}` : wordsOf(task);
    stages.set(text, (stages.get(text) ?? 0) + 1);
  }
  const why = [...stages].map(([text, count]) => `${count} ${text}`);
  const isShort = service.wanted !== null && service.wanted !== undefined && running < service.wanted;
  if (isShort && service.last_failure) why.push(`last failure: ${service.last_failure}`);
  if (service.update) why.push(`update: ${service.update}`);
  const isPaused = /paused/.test(service.update ?? '');
  return { ...service, running, why, isShort, needsAttention: isShort || isPaused };
}

/** Splits an image's reference into name, tag and digest. */
function imageOf(reference) {
  if (!reference) return [NOT_KNOWN, '', ''];
  const [named, digest = ''] = reference.split('@');
  const colon = named.lastIndexOf(':');
  // A colon before the last slash belongs to the registry's port.
  return colon > named.lastIndexOf('/') ? [named.slice(0, colon), named.slice(colon + 1), digest] : [named, '', digest];
}

function drawServices() {
  const { tasks, services } = picture;
  const isKnown = Boolean(tasks && services);
  say(byId('no-services'), isKnown ? '' : 'Not known: Docker did not report the services and their tasks.');
  const all = isKnown ? servicesOf(services, tasks) : [];
  const members = new Map(picture.fleet.members.map((member) => [member.node_id, member]));
  const rows = all.map((service) => {
    const counts = new Map();
    for (const { node_id: id } of service.tasks) if (id) counts.set(id, (counts.get(id) ?? 0) + 1);
    const nodes = [...counts].map(([id, count]) => {
      const member = members.get(id);
      return { id: member ? nameOf(member) : id, host: member?.hostname ?? '', count };
    });
    return { service, nodes };
  });
  const shown = rows.filter(({ service, nodes }) => isServiceShown(service, nodes.flatMap(({ id, host }) => [id, host])));
  hide(byId('services').querySelector('table'), shown.length === 0);
  keep(byId('service-rows'), shown, ({ service }) => service.name, createService, fillService);
  if (isKnown && !all.length) say(byId('no-services'), 'There is no service.');
  else if (isKnown && !shown.length) say(byId('no-services'), 'No service matches.');
  countShown(shown.length, all.length, 'service');
}

function createService() {
  const row = make('tr');
  const name = make('th');
  name.scope = 'row';
  row.append(name);
  for (const kind of ['count', 'pending', 'image', 'tag', 'on']) row.append(make('td', kind));
  return row;
}

function fillService(row, { service, nodes }) {
  if (!isNews(row, { ...service, tasks: null }, nodes)) return;
  const [name, count, pending, image, tag, on] = row.children;
  row.className = service.needsAttention ? 'short' : '';
  name.replaceChildren(service.name, make('small', '', service.mode));
  const isUnknown = service.wanted === null || service.wanted === undefined;
  count.replaceChildren(
    `${service.running} of `,
    isUnknown ? make('span', 'unknown', 'an unknown number') : String(service.wanted),
  );
  const verdict = service.isShort ? 'short' : isUnknown ? '' : 'whole';
  if (verdict && service.mode !== 'job') count.append(make('small', verdict, verdict));
  pending.replaceChildren(...service.why.map((text) => make('p', '', text)));
  const [repository, version, digest] = imageOf(service.image);
  image.replaceChildren(make('span', service.image ? '' : 'unknown', repository));
  tag.replaceChildren(version || '–', digest ? make('small', '', digest.replace(/^sha256:(.{12}).*$/, '$1')) : '');
  tag.title = digest;
  const links = nodes.slice(0, NODES_NAMED).map(({ id, host, count: times }) => {
    const link = make('a', '', id);
    link.href = `#${new URLSearchParams({ q: id })}`;
    const item = make('li');
    item.append(link);
    const rest = [times > 1 ? `×${times}` : '', host].filter(Boolean).join(' ');
    if (rest) item.append(make('small', '', rest));
    return item;
  });
  if (nodes.length > NODES_NAMED) {
    const link = make('a', '', `and ${nodes.length - NODES_NAMED} more`);
    link.href = `#${new URLSearchParams({ q: service.name })}`;
    const item = make('li');
    item.append(link);
    links.push(item);
  }
  const list = make('ul');
  list.append(...links);
  on.replaceChildren(...(links.length ? [list] : ['none']));
}

// --- Departures of the last day ---------------------------------------------------------------------

function drawDeparted({ departed }) {
  const section = byId('departed');
  const all = departed ?? [];
  const failed = all.filter((one) => one.state === 'failed').length;
  say(byId('departed-count'), all.length ? `${all.length}${failed ? `, ${failed} failed` : ''}` : 'none seen');
  mark(byId('departed-count'), 'alarm', failed > 0);
  hide(section.querySelector('table'), all.length === 0);
  const left = all.length - DEPARTED_LISTED;
  say(byId('departed-rest'), left > 0 ? `and ${left} older ones` : '');
  const keyOfOne = (one) => `${one.instance_id} ${one.node_id} ${one.requested_at}`;
  keep(byId('departed-rows'), all.slice(0, DEPARTED_LISTED), keyOfOne, () => make('tr'), (row, one) => {
    if (!isNews(row, one, picture.console)) return;
    const name = make('th');
    name.scope = 'row';
    name.append(consoleLink(one.instance_id));
    const outcome = one.state === 'failed' ? 'failed: not out of the swarm by its deadline' : 'left the swarm';
    const by = one.stand_in ? ', by the managers' : '';
    const killed = one.killed ? `, ${plural(one.killed, 'task')} killed` : '';
    const cells = [
      new Date(one.requested_at).toLocaleString(), one.role, one.group ?? NOT_KNOWN, one.reason, outcome + by + killed,
    ];
    row.className = one.state === 'failed' ? 'short' : '';
    row.replaceChildren(name, ...cells.map((text) => make('td', text === NOT_KNOWN ? 'unknown' : '', text)));
  });
}
