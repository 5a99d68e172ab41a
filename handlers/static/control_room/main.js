// The control room: polls `/live`, and hands each answer to the parts of the page.

import { byId, setText, show } from "./dom.js";
import { Events } from "./events.js";
import { Flags } from "./flags.js";
import { Headline } from "./headline.js";
import { Live } from "./live.js";
import { Moves } from "./moves.js";
import { clock, count, plural } from "./numbers.js";
import { Operator } from "./operator.js";
import { Ring } from "./ring.js";
import { Route } from "./route.js";
import { Shards } from "./shards.js";
import { Traffic } from "./traffic.js";

const operator = new Operator();
const live = new Live(() => operator.headers());
const hurry = () => live.hurry();
const ring = new Ring();
const headline = new Headline(live);
const traffic = new Traffic();
const parts = [
  new Events(), new Shards(), ring, new Route(ring, operator, hurry), new Flags(operator, hurry), new Moves(operator, hurry),
];

live.addEventListener("connection", ({ detail }) => headline.connection(detail));
live.addEventListener("frame", ({ detail: frame }) => {
  for (const part of parts) part.update(frame);
  headline.update(frame, traffic.update(frame));
  const { at, version, workers, epoch } = frame.live;
  setText(byId("as-of"), clock(at));
  setText(byId("service"), `version ${version} · ${plural(workers, "worker")} · epoch ${count(epoch)}`);
  show(byId("waiting"), false);
  // For who watches from outside: how many answers the page has shown.
  document.documentElement.dataset.polls = String(live.polls);
});
operator.addEventListener("change", hurry);
live.start();
