module modelport/tools/probe

go 1.26
