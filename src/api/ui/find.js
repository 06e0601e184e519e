// Search and filter. They are kept in the address's fragment, so that a reload and a link show the same; a browser sends
// the fragment to nobody.
'use strict';

const FIELDS = ['q', 'role', 'state', 'attention'];
const VIEWS = ['nodes', 'services'];
/** Time without a key press after which a new search is drawn, in milliseconds. */
const TYPING = 120;

/** What is shown: a view, and the fields of the form. */
let query = read();
let typing = null;

function read() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const view = fragment.get('view');
  const found = { view: VIEWS.includes(view) ? view : 'nodes' };
  for (const field of FIELDS) found[field] = fragment.get(field) ?? '';
  return found;
}

/** Returns the fragment for what is shown, with some changes. */
function fragment(changes = {}) {
  const wanted = { ...query, ...changes };
  const parts = new URLSearchParams();
  if (wanted.view !== 'nodes') parts.set('view', wanted.view);
  for (const field of FIELDS) if (wanted[field]) parts.set(field, wanted[field]);
  return `#${parts}`;
}

/** Takes a change over: to the address, the form and what is drawn. */
function apply() {
  const form = byId('find');
  for (const field of FIELDS) {
    const input = form.elements[field];
    if (input.type === 'checkbox') input.checked = query[field] === '1';
    else if (input.value !== query[field]) input.value = query[field];
    // A select has no value that none of its options has.
    if (input.type === 'select-one' && input.selectedIndex < 0) input.value = query[field] = '';
  }
  for (const link of document.querySelectorAll('#views a')) {
    const isCurrent = link.dataset.view === query.view;
    link.href = fragment({ view: link.dataset.view });
    if (isCurrent) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  hide(byId('zones'), query.view !== 'nodes');
  hide(byId('services'), query.view !== 'services');
  for (const field of ['role', 'state']) hide(form.elements[field].parentElement, query.view !== 'nodes');
  if (picture) {
    draw();
    tick();
  }
}

function change() {
  const form = byId('find');
  const attention = form.elements.attention.checked ? '1' : '';
  const [q, role, state] = ['q', 'role', 'state'].map((field) => form.elements[field].value);
  query = { ...query, q, role, state, attention };
  history.replaceState(null, '', fragment());
  apply();
}

const isFiltered = () => FIELDS.some((field) => query[field]);
const terms = () => query.q.toLowerCase().split(/\s+/).filter(Boolean);
const hasTerms = (texts) => {
  const text = texts.filter(Boolean).join('\n').toLowerCase();
  return terms().every((term) => text.includes(term));
};

/** Whether a node is wanted by the search and the filters. */
function isNodeShown(member, tasks) {
  if (!isFiltered()) return true;
  const [kind, words] = stateOf(member);
  if (query.role && member.role !== query.role) return false;
  if (query.state && kind !== query.state) return false;
  if (query.attention && kind === 'ready' && !member.verdict) return false;
  return hasTerms([
    member.instance_id, member.node_id, member.hostname, member.address, zoneOf(member), member.group, rank(member),
    member.engine, member.labels['skep.instance-type'], member.labels['skep.market'], words, member.verdict,
    ...new Set(tasks.map((task) => task.service)),
  ]);
}

/** Whether a service is wanted; role and state are a node's and do not count. */
function isServiceShown(service, nodes) {
  if (query.attention && !service.needsAttention) return false;
  return hasTerms([service.name, service.image, service.mode, service.update, ...service.why, ...nodes]);
}

/** Says how much of the whole is shown. */
function countShown(shown, all, word) {
  const isAll = query.view === 'nodes' ? !isFiltered() : !query.q && !query.attention;
  say(byId('matches'), isAll ? '' : `${shown} of ${plural(all, word)} shown`);
  hide(byId('clear'), isAll);
}

addEventListener('hashchange', () => {
  query = read();
  apply();
});
byId('find').addEventListener('submit', (event) => event.preventDefault());
byId('find').addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(change, TYPING);
});
byId('clear').addEventListener('click', () => {
  for (const field of FIELDS) query[field] = '';
  history.replaceState(null, '', fragment());
  apply();
  byId('find').elements.q.focus();
});
addEventListener('keydown', (event) => {
  const search = byId('find').elements.q;
  const isText = event.target instanceof Element && event.target.matches('input:not([type=checkbox]), textarea, select');
  if (event.key === '/' && !isText && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === 'Escape' && event.target === search && search.value) {
    event.preventDefault();
    search.value = '';
    change();
  }
});
