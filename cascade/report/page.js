// All videos play in sync. They stop if the reader presses the button or prefers reduced motion.
(() => {
  const films = [...document.querySelectorAll("video")];
  const button = document.getElementById("pause");
  if (!films.length) return;
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const show = () => {
    button.textContent = playing ? "Pause videos" : "Play videos";
    for (const film of films) {
      film.muted = true;
      if (playing) film.play().catch(() => {});
      else film.pause();
    }
  };
  const align = () => {
    const longest = films.reduce((a, b) => ((b.duration || 0) > (a.duration || 0) ? b : a));
    for (const film of films) {
      if (film !== longest && film.duration) film.currentTime = longest.currentTime % film.duration;
    }
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    playing = !playing;
    show();
    if (playing) align();
  });
  addEventListener("load", () => {
    show();
    align();
  });
})();
