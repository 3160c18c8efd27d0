-- Why were commands rejected?
SELECT reason, count(*) AS commands FROM log.command_rejected GROUP BY reason ORDER BY commands DESC, reason;
