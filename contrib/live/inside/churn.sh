# SPDX-License-Identifier: LGPL-2.1-or-later
# Keep the LRU lists busy: memory cgroups that come, go and are reclaimed, files, locked memory. churn.sh y|n
# With y, multi-gen LRU is on.
echo "$1" >/sys/kernel/mm/lru_gen/enabled
cgroups=/tmp/cgroups
mkdir -p $cgroups && mount -t cgroup2 cgroup $cgroups
echo +memory >$cgroups/cgroup.subtree_control
mkdir -p $cgroups/pressure $cgroups/small $cgroups/high
echo 96M >$cgroups/small/memory.max
echo 64M >$cgroups/high/memory.high
in_cgroup() {
  name=$1
  shift
  sh -c "echo 0 >$cgroups/$name/cgroup.procs; $*" >/dev/null 2>&1 &
}
in_cgroup pressure "exec $python $inside/pressure.py $share/stop"
in_cgroup small "while :; do find /usr -type f -size -8000k | head -n 4000 | xargs cat; done"
in_cgroup high "while :; do dd if=/dev/zero of=/tmp/file bs=64k count=500; rm /tmp/file; find /usr/lib -type f -size -8000k | tail -n 2000 | xargs cat; done"
"$python" "$inside/lock.py" >/dev/null 2>&1 &
(while :; do
  mkdir $cgroups/short
  sh -c "echo 0 >$cgroups/short/cgroup.procs; ls -lR /usr/share; cat /usr/bin/*" >/dev/null 2>&1
  rmdir $cgroups/short
done) &
