-- Read rows by name. ARGV: names in one string. Answers what `answer` gives; false for one not there.
return answer(names_in(ARGV[1]))
