// Polls this manager for the fleet every two seconds, and draws the fleet.
'use strict';

/** Time between an answer and the next request, in milliseconds. */
const LOOK_EVERY = 2000;
/** Time limit for an answer, in milliseconds; the manager waits eight seconds for Docker and the ledger. */
const PATIENCE = 10000;
/** A smaller difference of the clocks is only network delay: correcting it would make countdowns jump. */
const SKEW_THAT_COUNTS = 1500;

/** How far the manager's clock is ahead of this one, in milliseconds. */
let skew = 0;
let answeredAt = Date.now();
/** The reason for a missing answer. */
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
  const silence = Date.now() - answeredAt;
  document.body.classList.toggle('lost', failure !== null);
  say(byId('connection'), failure === null ? 'live' : `no answer since ${span(silence)}`);
  if (failure === null) byId('lost').hidden = true;
}

/** Shows the reason for a missing answer, and links to the other managers. */
function lose(why) {
  failure = why;
  const here = new URL(location.href);
  const others = (picture?.fleet.members ?? []).filter((member) => {
    return member.role === 'manager' && member.address && member.address !== here.hostname && !member.leaving;
  });
  const box = byId('lost');
  box.hidden = false;
  box.replaceChildren(why);
  if (/^[\d.]+$/.test(here.hostname) && others.length) {
    box.append(' Other managers:');
    for (const { address } of others) {
      const link = make('a', '', address);
      here.hostname = address;
      link.href = here.href;
      box.append(' ', link);
    }
  }
  tick();
}

/** Fetches the fleet; returns it, or the reason for a missing answer. */
async function ask() {
  try {
    const answer = await fetch('ui/fleet.json', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
    if (answer.ok) return { seen: await answer.json() };
    return { why: (await answer.text()).trim() };
  } catch {
    const at = new Date(answeredAt).toLocaleTimeString();
    return { why: picture ? `What is shown is from ${at}.` : 'This manager does not answer.' };
  }
}

async function look() {
  const { seen, why } = await ask();
  if (seen) {
    picture = seen;
    const ahead = Date.parse(seen.seen_at) - Date.now();
    if (Math.abs(ahead - skew) > SKEW_THAT_COUNTS) skew = ahead;
    answeredAt = Date.now();
    failure = null;
    draw();
    tick();
  } else {
    lose(why);
  }
  setTimeout(next, LOOK_EVERY);
}

/** Polls again, unless the page is hidden: then waits until it is visible. */
function next() {
  if (!document.hidden) return look();
  document.addEventListener('visibilitychange', next, { once: true });
}

setInterval(tick, 1000);
look();
