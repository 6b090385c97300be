module modelport/tools/pause

go 1.26
