// The page "The predictor in motion": three figures, each of which works without the others.
import { startImitation } from "./imitation.js";
import { startMotion } from "./motion.js";
import { startTraining } from "./training.js";

for (const start of [startImitation, startMotion, startTraining])
  Promise.resolve()
    .then(start)
    .catch(error => console.error(error));
