-- rebuild: reports on decisions without a window name the decision, and those that are refused are kept with the reason.
ALTER TABLE reported ADD COLUMN decision_id BLOB;
CREATE TABLE refused (event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, reason VARCHAR);
