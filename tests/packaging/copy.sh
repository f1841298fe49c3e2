# shellcheck shell=bash
# A copy of this machine in which packages are installed and servers run, and of which nothing stays: the root file
# system with a memory of changes above it, in mount and process namespaces of its own. Run by root:
#
#   unshare --mount --pid --fork --kill-child --ipc bash copy.sh FOLDER COMMAND…
#
# FOLDER/put is what the copy finds in /pgq. In the copy /machine is the machine as it is, read only, and /changes
# holds what differs from it. When COMMAND ends, every process that it started ends too.
set -euo pipefail
FOLDER=$1
shift

mount --make-rprivate /
mkdir -p "$FOLDER/copy"
mount -t tmpfs -o mode=755 tmpfs "$FOLDER/copy"
mkdir "$FOLDER"/copy/{changes,work,root}
mount -t overlay overlay "$FOLDER/copy/root" \
    -o "lowerdir=/,upperdir=$FOLDER/copy/changes,workdir=$FOLDER/copy/work"
cd "$FOLDER/copy/root"
mkdir -p machine changes pgq
mount --bind / machine
mount -o remount,bind,ro machine
mount --bind "$FOLDER/copy/changes" changes
mount --bind "$FOLDER/put" pgq
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs tmp
# Where a server that is not Debian's has its own libraries.
exec chroot . env -i HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive PG_MAJOR="$PG_MAJOR" \
    LD_LIBRARY_PATH="/usr/lib/postgresql/$PG_MAJOR/lib" \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash -c 'cd /pgq && exec "$@"' -- "$@"
