# A small history: commits, a branch, a merge, a rebase, repacking, a clone and a check of everything.
set -eu
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_PAGER=cat
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@localhost GIT_COMMITTER_NAME=C GIT_COMMITTER_EMAIL=c@localhost
export GIT_AUTHOR_DATE='2001-02-03T04:05:06Z' GIT_COMMITTER_DATE='2001-02-03T04:05:06Z'
git config --global init.defaultBranch main
git config --global gc.auto 0
git config --global pack.threads 2
git init -q history
cd history
for n in 1 2 3 4; do
    seq $((n * 1000)) >numbers
    seq $n 7 9000 >"file_$n"
    git add -A
    git commit -q -m "commit $n"
done
git checkout -q -b side HEAD~2
echo side >side
git add side
git commit -q -m side
git merge -q -m merge main
git checkout -q -b third main~1
seq 50 >third
git add third
git commit -q -m third
git rebase -q main
git log --all --graph --format='%h %s'
git diff --stat main~2 main
git grep -c 99 main -- numbers
git repack -q -a -d -f
git gc -q
git fsck --full --no-progress
cd ..
git clone -q history copy
git -C copy rev-parse HEAD HEAD^{tree}
git -C copy status --short
