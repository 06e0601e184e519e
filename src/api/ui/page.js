// Polls this manager for the fleet every two seconds, draws the fleet, and says how old is what is shown.
//
// A manager that dies is noticed within 5 s of its last answer: the next request starts 2 s after it and has 2.5 s. A
// manager that lives answers in that time, with older data and their age where its Docker or the ledger is slow.
'use strict';

/** Time between an answer and the next request, in milliseconds. */
const LOOK_EVERY = 2000;
/** The same after a missing answer: a manager that answers again is noticed soon. */
const RETRY_AFTER = 1000;
/** Time limit for an answer, in milliseconds; the manager answers within 1.5 s with what it has. */
const PATIENCE = 2500;
/** Time limit for the first answer: the manager has nothing older, and waits eight seconds for Docker and the ledger. */
const FIRST_PATIENCE = 10000;
/** Time without an answer after which the page is shown as old, whatever the reason; a hidden page does not ask. */
const SILENCE = 5000;
/** Age of the data in an answer from which on the page shows it. */
const OLD_DATA = 10000;
/** A smaller difference of the clocks is only network delay: correcting it would make countdowns jump. */
const SKEW_THAT_COUNTS = 1500;

/** How far the manager's clock is ahead of this one, in milliseconds. */
let skew = 0;
/** Time of the last answer; null before the first one. */
let answeredAt = null;
/** Age of the data at the time of the last answer, in milliseconds. */
let answeredAge = 0;
/** Why there is no answer, in a few words; null while there are answers. */
let failure = null;

const now = () => Date.now() + skew;

/** Updates everything that changes without an answer: ages, countdowns, and the time since the last answer. */
function tick() {
  for (const age of document.querySelectorAll('time')) {
    const { since } = age.dataset;
    say(age, since ? span(now() - Number(since)) : '');
  }
  for (const item of document.querySelectorAll('.departure')) {
    const [from, until] = [Number(item.dataset.from), Number(item.dataset.until)];
    const left = until - now();
    const share = Math.min(1, Math.max(0, left / Math.max(1, until - from)));
    item.classList.toggle('overdue', left < 0);
    say(item.querySelector('.left'), left < 0 ? `overdue by ${span(-left)}` : `${span(left)} left`);
    const bar = item.querySelector('.bar');
    bar.setAttribute('aria-valuenow', String(Math.round(share * 100)));
    bar.firstChild.style.transform = `scaleX(${left < 0 ? 1 : share})`;
  }
  for (const state of document.querySelectorAll('.state[data-until]')) {
    const left = Number(state.dataset.until) - now();
    say(state, `${state.dataset.words}, ${left < 0 ? 'overdue' : `${span(left)} left`}`);
  }
  sayConnection();
}

function sayConnection() {
  const silence = answeredAt === null ? 0 : Date.now() - answeredAt;
  const isLost = failure !== null || silence > SILENCE;
  const age = answeredAge + silence;
  mark(document.body, 'lost', isLost);
  mark(document.body, 'old', !isLost && age > OLD_DATA);
  let text = 'live';
  if (isLost && answeredAt === null) text = `no answer yet: ${failure}`;
  else if (isLost) text = `last answer ${span(silence)} ago: ${failure ?? 'this page was hidden'}`;
  else if (answeredAt === null) text = 'connecting …';
  else if (age > OLD_DATA) text = `data is ${span(age)} old: Docker or the ledger is slow`;
  say(byId('connection'), text);
  if (failure === null) hide(byId('lost'), true);
}

/** Shows the reason for a missing answer, and links to the other managers. */
function lose({ why, detail }) {
  if (failure === null) announce(`Connection lost: ${why}`);
  failure = why;
  const here = new URL(location.href);
  const others = (picture?.fleet.members ?? []).filter((member) => {
    return member.role === 'manager' && member.address && member.address !== here.hostname && !member.leaving;
  });
  const box = byId('lost');
  const old = picture ? `What is shown is from ${new Date(answeredAt).toLocaleTimeString()}, and may have changed. ` : '';
  const hosts = /^[\d.]+$/.test(here.hostname) ? others.map((member) => member.address) : [];
  hide(box, false);
  if (isNews(box, old, detail, hosts, here.href)) {
    box.replaceChildren(old + detail);
    if (hosts.length) box.append(' Other managers:');
    for (const address of hosts) {
      const link = make('a', '', address);
      here.hostname = address;
      link.href = here.href;
      box.append(' ', link);
    }
  }
  tick();
}

/** Fetches the fleet; returns it and its age, or the reason for a missing answer. */
async function ask() {
  const silent = { why: 'this manager does not answer', detail: 'This manager does not answer.' };
  const signal = AbortSignal.timeout(picture ? PATIENCE : FIRST_PATIENCE);
  let answer;
  let text;
  try {
    answer = await fetch('ui/fleet.json', { cache: 'no-store', signal });
    text = await answer.text();
  } catch {
    return silent;
  }
  const kind = answer.headers.get('content-type') ?? '';
  // skep's own refusals are a line of plain text; a proxy's page of errors says nothing about the fleet.
  if (!answer.ok) {
    const detail = kind.startsWith('text/plain') && text.length < 500 ? text.trim() : '';
    return { why: `it answers with status ${answer.status}`, detail: detail || `The answer has status ${answer.status}; a proxy in between may have sent it.` };
  }
  try {
    const seen = JSON.parse(text);
    if (!Array.isArray(seen.fleet.members)) throw new TypeError('no members');
    return { seen, age: Number(answer.headers.get('age') ?? 0) * 1000 || 0 };
  } catch {
    return { why: 'the answer is not from skep', detail: 'The answer is not from skep; a proxy in between may have sent it.' };
  }
}

async function look() {
  const { seen, age, ...reason } = await ask();
  if (seen) {
    if (failure !== null) announce('Connected again.');
    picture = seen;
    const ahead = Date.parse(seen.seen_at) + age - Date.now();
    if (Math.abs(ahead - skew) > SKEW_THAT_COUNTS) skew = ahead;
    [answeredAt, answeredAge, failure] = [Date.now(), age, null];
    draw();
    tick();
  } else {
    lose(reason);
  }
  setTimeout(next, failure === null ? LOOK_EVERY : RETRY_AFTER);
}

/** Polls again, unless the page is hidden: then waits until it is visible. */
function next() {
  if (!document.hidden) return look();
  document.addEventListener('visibilitychange', next, { once: true });
}

setInterval(tick, 1000);
apply();
look();
