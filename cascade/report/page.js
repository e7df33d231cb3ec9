// Videos are loaded and played while they are in view, all by one clock. They stop if the reader
// presses the button or prefers reduced motion.
(() => {
  const films = [...document.querySelectorAll("video")];
  const button = document.getElementById("pause");
  if (!films.length) return;
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const began = performance.now();
  const inView = new Set();
  const align = (film) => {
    if (film.duration) film.currentTime = ((performance.now() - began) / 1000) % film.duration;
  };
  const show = (film) => {
    film.muted = true;
    if (!inView.has(film)) return film.pause();
    if (film.preload === "none") film.preload = "auto";
    if (!playing) return film.pause();
    align(film);
    film.play().catch(() => {});
  };
  const label = () => {
    button.textContent = playing ? "Pause videos" : "Play videos";
  };
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) inView.add(target);
        else inView.delete(target);
        show(target);
      }
    },
    { rootMargin: "200px" },
  );
  for (const film of films) {
    film.addEventListener("loadedmetadata", () => align(film));
    observer.observe(film);
  }
  button.hidden = false;
  button.addEventListener("click", () => {
    playing = !playing;
    label();
    inView.forEach(show);
  });
  label();
})();
