#!/bin/sh
# mailer -s SUBJECT RECIPIENT <BODY     delivers into RECIPIENT's maildir, as a mail server would
#
# What SLURM (MailProg) and Grid Engine (mailer) call as they would call `mail`. The recipient's part before the @ is
# the maildir's name; mail for one that is not there is dropped. SLURM gives no body: it says what it knows in the
# environment, and a site's own mailer makes a body of that, as this one does.
subject='' recipient=''
while [ $# -gt 0 ]; do
  case $1 in
    -s) subject=${2-}; shift 2 ;;
    *) recipient=$1; shift ;;
  esac
done
maildir=@MAIL_ROOT@/${recipient%%@*}
case ${recipient%%@*} in '' | */* | .*) exit 0 ;; esac
[ -d "$maildir/new" ] || exit 0

case $subject in # RFC 2047, as mail programs do with what is not ASCII
  *[!\ -~]*) subject="=?utf-8?B?$(printf '%s' "$subject" | base64 -w 0)?=" ;;
esac
name=$(date +%s).M$(date +%N)P$$.$(hostname)
umask 022
{
  printf 'From: scheduler <%s@cluster.test>\n' "$(id -un)"
  printf 'To: <%s>\n' "$recipient"
  printf 'Subject: %s\n' "$subject"
  printf 'Date: %s\n' "$(date -R)"
  printf 'Message-ID: <%s@cluster.test>\n' "$name"
  printf 'MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n'
  env | grep -E '^SLURM_(JOB|ARRAY|CLUSTER)' | sort
  cat
} >"$maildir/tmp/$name" && mv "$maildir/tmp/$name" "$maildir/new/$name"
