# Gives the output of each package in what .ci/binaries writes to a test2json of
# its own, one after another, so that the result is that of "go test -json".
/^@@ package / {
  if (to) close(to)
  to = "go tool test2json -t -p '" $3 "'"
  next
}
to { print | to }
!to && NF { print }
END { if (to) close(to) }
