#!/bin/sh
# State of a Slurm job, as Snakemake asks for it: running, success or failed. Accounting is not needed: a finished job is
# known for MinJobAge seconds (300 by default), and sacct is asked about older ones.
answer=$(scontrol --oneliner show job "$1" 2>&1)
state=$(printf '%s\n' "$answer" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p')
if [ -z "$state" ]; then
    case "$answer" in
    *"Invalid job id"*) state=$(sacct --noheader --allocations --parsable2 --format=State --jobs="$1" 2>/dev/null | head -n 1) ;;
    *) state=RUNNING ;; # Slurm does not answer just now
    esac
fi
case "$state" in
COMPLETED*) echo success ;;
PENDING* | CONFIGURING* | RUNNING* | COMPLETING* | REQUEUE* | RESIZING* | SUSPENDED* | SIGNALING* | STAGE_OUT*) echo running ;;
*) echo failed ;;
esac
