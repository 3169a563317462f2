# The words as one line that a shell reads as the same words; for the other scripts here.
# shellcheck shell=bash
quoted() {
  local word separator=""
  for word in "$@"; do
    case "$word" in
      "" | *[!A-Za-z0-9_./:=@%+,-]*) word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    printf '%s%s' "$separator" "$word"
    separator=" "
  done
}
