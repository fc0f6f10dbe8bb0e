# Between .ci/binaries and .ci/report: gives the output of each package to a
# test2json of its own, one after another. The lines @@ pass to report as they
# are: they tell which package comes and how it ended.
/^@@ begin / {
  print
  fflush()
  to = "go tool test2json -t -p '" $3 "'"
  next
}
/^@@ (end|again)/ {
  if (to) close(to)
  to = ""
  print
  fflush()
  next
}
to { print | to }
!to && NF { print }
