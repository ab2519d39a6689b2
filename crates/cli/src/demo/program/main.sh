# Reads the files of a list and prints what it saw.
set -eu
files=$(wc -l < /app/files)
sum=$(xargs -d '\n' -P 8 -n 25 sha256sum < /app/files | sort | sha256sum)
echo "files=$files sha256=${sum%% *}"
