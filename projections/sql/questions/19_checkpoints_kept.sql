-- Which checkpoints of each run are kept, and how large are they?
SELECT saved.run_id, count(*) AS kept, sum(saved.bytes) AS bytes
FROM log.checkpoint_saved AS saved
ANTI JOIN log.checkpoint_pruned AS pruned ON pruned.run_id = saved.run_id AND pruned.ref = saved.ref
GROUP BY saved.run_id
ORDER BY saved.run_id;
