-- What do the policies choose?
SELECT policy, split_part(actions[action + 1], ' ', 1) AS action, count(*) AS decisions
FROM log.decision_made
GROUP BY ALL
ORDER BY decisions DESC, policy, action;
