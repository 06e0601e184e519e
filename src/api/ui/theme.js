// Sets the colour scheme that the reader has chosen before anything is drawn, and keeps the choice in this browser.
'use strict';

const THEME_KEY = 'skep-theme';
const THEMES = ['light', 'dark'];

/** Returns the chosen scheme; an empty text follows the system, also where the browser keeps nothing. */
function chosenTheme() {
  try {
    const theme = localStorage.getItem(THEME_KEY);
    return THEMES.includes(theme) ? theme : '';
  } catch {
    return '';
  }
}

function useTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

useTheme(chosenTheme());
addEventListener('DOMContentLoaded', () => {
  const select = document.getElementById('theme');
  select.value = chosenTheme();
  select.addEventListener('change', () => {
    useTheme(select.value);
    try {
      if (select.value) localStorage.setItem(THEME_KEY, select.value);
      else localStorage.removeItem(THEME_KEY);
    } catch {
      // The choice holds until the page is closed.
    }
  });
});
