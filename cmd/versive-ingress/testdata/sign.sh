#!/bin/sh
# Signs FILE as the vendor does and posts it to URL; prints the status and the
# body of the answer. An opinion on the signature that is independent of the
# ingress and of the library that it uses: openssl and curl, nothing else.
#
#   sign.sh URL SECRET ID FILE [TIMESTAMP]
set -eu

if [ $# -lt 4 ] || [ $# -gt 5 ]; then
  echo "usage: sign.sh URL SECRET ID FILE [TIMESTAMP]" >&2
  exit 2
fi
url=$1 secret=$2 id=$3 file=$4 timestamp=${5:-$(date +%s)}

# The key is any bytes, so it goes to openssl in hexadecimal.
key=$(printf %s "${secret#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
signature=$(
  { printf '%s.%s.' "$id" "$timestamp" && cat "$file"; } |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary |
    openssl base64 -A
)

# curl writes the body and then, on a line of its own, the status.
answer=$(
  curl --silent --show-error --max-time 15 --write-out '\n%{http_code}' \
    --header 'Content-Type: application/json' \
    --header "svix-id: $id" \
    --header "svix-timestamp: $timestamp" \
    --header "svix-signature: v1,$signature" \
    --data-binary "@$file" "$url"
)
printf '%s %s\n' "$(printf %s "$answer" | tail -n 1)" "$(printf %s "$answer" | sed '$d')"
