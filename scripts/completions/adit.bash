# Completions of adit for bash; "adit completions bash" prints this. To have them in every shell:
#   adit completions bash > ~/.local/share/bash-completion/completions/adit

_adit() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local at word= verb= words=

    for ((at = 1; at < COMP_CWORD; at++)); do
        case $word:${COMP_WORDS[at]} in
            :ctl | :top | :completions | :demo) word=${COMP_WORDS[at]} ;;
            ctl:status | ctl:tunnels | ctl:close | ctl:drain | ctl:undrain | ctl:rebalance | ctl:plan | ctl:reload)
                verb=${verb:-${COMP_WORDS[at]}}
                ;;
        esac
    done

    COMPREPLY=()
    case $word:$previous in
        *:-c | *:--config | :--plan | *:--token-file)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        ctl:--sort) words='age idle bytes bytes_up bytes_down rate' ;;
        *:--admin | ctl:--client | ctl:--listener | ctl:--route | ctl:--upstream | ctl:--server) return ;;
        ctl:--min-age | ctl:--min-idle | ctl:--min-bytes | ctl:--limit | top:--every) return ;;
        *)
            local where='--admin --config --token-file --help'
            local filters='--client --listener --route --upstream --server --min-age --min-idle --min-bytes'
            case $word:$verb in
                :) words='--config --check --plan --json --schema --version --help ctl top completions demo' ;;
                ctl:) words="status tunnels close drain undrain rebalance plan reload --json $where" ;;
                ctl:tunnels) words="$filters --sort --asc --limit --all --json $where" ;;
                ctl:close) words="$filters --all --yes --dry-run --json $where" ;;
                ctl:drain) words="--listener --route --upstream --server --all --dry-run --json $where" ;;
                ctl:undrain) words="--listener --route --upstream --server --dry-run --json $where" ;;
                ctl:rebalance) words="--dry-run --json $where" ;;
                ctl:*) words="--json $where" ;;
                top:*) words="--every $where" ;;
                completions:*) words='bash zsh fish' ;;
                demo:*) words='--help' ;;
            esac
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _adit adit
