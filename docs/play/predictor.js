// The page "The predictor in motion": figures that work without each other.
import { startImitation } from "./imitation.js";
import { startMotion } from "./motion.js";
import { startTraining } from "./training.js";

const figures = { imitation: startImitation, motion: startMotion, training: startTraining };
for (const [id, start] of Object.entries(figures).filter(([id]) => document.getElementById(id)))
  Promise.resolve()
    .then(start)
    .catch(error => console.error(id, error));
