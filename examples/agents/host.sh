#!/bin/sh
# A stdio agent in plain POSIX shell: answers every request with the name and the load of its machine.
#
#   shoal deploy "$PWD/examples/agents/host.sh" --name host
#   shoal message ask --to host --content hello
#
# The node writes one JSON object a line; this agent looks for the two things that it needs without a JSON
# parser. That is safe here: inside the content every quote is escaped, so the patterns match real fields
# only. An agent that reads the content should use a language that has JSON.

# stderr is the agent's log: `shoal agent logs host`.
echo "$SHOAL_AGENT started on $SHOAL_NODE" >&2

# Optional: says that messages may come before the 300 ms are over after which a silent agent counts as running.
echo '{"type":"ready"}'

while read -r line; do
    case $line in
    *'"type":"message"'*'"wants_answer":true'*) ;;
    *) continue ;; # the hello, and messages that want no answer
    esac
    id=${line#*'"id":"'}
    id=${id%%'"'*}
    read -r one five fifteen rest </proc/loadavg
    printf '{"type":"reply","to":"%s","content":"%s: load %s %s %s"}\n' "$id" "$(uname -n)" "$one" "$five" "$fifteen"
done

# The node closes stdin to stop the agent: the loop ends, and so does the script.
