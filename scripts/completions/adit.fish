# Completions of adit for fish; "adit completions fish" prints this. To have them in every shell:
#   adit completions fish > ~/.config/fish/completions/adit.fish

set -l words ctl top completions demo
set -l verbs status tunnels close drain undrain rebalance plan reload
set -l first "not __fish_seen_subcommand_from $words"
set -l verb "__fish_seen_subcommand_from ctl; and not __fish_seen_subcommand_from $verbs"
set -l narrowed "__fish_seen_subcommand_from ctl; and __fish_seen_subcommand_from tunnels close"
set -l named "__fish_seen_subcommand_from ctl; and __fish_seen_subcommand_from tunnels close drain undrain"
set -l listed "__fish_seen_subcommand_from ctl; and __fish_seen_subcommand_from tunnels"
set -l emptied "__fish_seen_subcommand_from ctl; and __fish_seen_subcommand_from tunnels close drain"
set -l tried "__fish_seen_subcommand_from ctl; and __fish_seen_subcommand_from close drain undrain rebalance"

complete -c adit -f
complete -c adit -n "$first; or __fish_seen_subcommand_from ctl top" -s c -l config -rF -d 'the configuration file'
complete -c adit -s h -l help -d 'print the help'

complete -c adit -n $first -s t -l check -d 'read and check the configuration'
complete -c adit -n $first -l plan -rF -d 'what a reload to this file would change'
complete -c adit -n $first -l schema -d 'print the JSON Schema of configuration files'
complete -c adit -n $first -s V -l version -d 'print the version'
complete -c adit -n $first -a ctl -d 'look at a running adit and steer it'
complete -c adit -n $first -a top -d 'the same, live on a terminal'
complete -c adit -n $first -a completions -d 'print what makes a shell complete all this'
complete -c adit -n $first -a demo -d 'an echo server, the proxy in front of it and a page'
complete -c adit -n "__fish_seen_subcommand_from completions" -a 'bash zsh fish'

complete -c adit -n "__fish_seen_subcommand_from ctl top" -l admin -x -d 'where the admin listener is'
complete -c adit -n "__fish_seen_subcommand_from ctl top" -l token-file -rF -d 'the file with its token'
complete -c adit -n "__fish_seen_subcommand_from top" -l every -x -d 'how often to look'
complete -c adit -n "$first; or __fish_seen_subcommand_from ctl" -l json -d 'JSON'

complete -c adit -n $verb -a status -d 'what it does'
complete -c adit -n $verb -a tunnels -d 'those that are open'
complete -c adit -n $verb -a close -d 'close tunnels'
complete -c adit -n $verb -a drain -d 'take in nothing new there, and let its tunnels end'
complete -c adit -n $verb -a undrain -d 'take that back'
complete -c adit -n $verb -a rebalance -d 'close what servers have more than their share'
complete -c adit -n $verb -a plan -d 'what a reload would change'
complete -c adit -n $verb -a reload -d 'read the configuration file again'

complete -c adit -n $narrowed -l client -x -d 'address or network of the client'
complete -c adit -n $named -l listener -x -d 'the listener'
complete -c adit -n $named -l route -x -d 'host and path of the route'
complete -c adit -n $named -l upstream -x -d 'the upstream'
complete -c adit -n $named -l server -x -d 'the server'
complete -c adit -n $narrowed -l min-age -x -d 'open for so long'
complete -c adit -n $narrowed -l min-idle -x -d 'silent for so long'
complete -c adit -n $narrowed -l min-bytes -x -d 'that have carried so much'
complete -c adit -n $listed -l sort -x -a 'age idle bytes bytes_up bytes_down rate' -d 'by what'
complete -c adit -n $listed -l asc -d 'the least first'
complete -c adit -n $listed -l limit -x -d 'so many'
complete -c adit -n $emptied -l all -d 'all of them'
complete -c adit -n $tried -l dry-run -d 'only say what it would be about'
complete -c adit -n "__fish_seen_subcommand_from ctl; and __fish_seen_subcommand_from close" -l yes -d 'do not ask'
